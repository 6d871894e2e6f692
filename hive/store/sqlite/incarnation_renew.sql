INSERT INTO incarnation (name, host, boot_id, lease_until_s, renewed_at_ms)
VALUES (:name, :host, :boot_id, :lease_until_s, :now_ms)
ON CONFLICT (name) DO UPDATE SET lease_until_s = excluded.lease_until_s, renewed_at_ms = excluded.renewed_at_ms,
                                 boot_id = excluded.boot_id;
