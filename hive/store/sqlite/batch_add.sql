INSERT OR IGNORE INTO batch (name, created_at_ms) VALUES (:name, :now_ms);
