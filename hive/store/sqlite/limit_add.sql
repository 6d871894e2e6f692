INSERT INTO limit_signal (at_ms, kind, host, until_at_ms, detail) VALUES (:now_ms, :kind, :host, :until_at_ms, :detail);
