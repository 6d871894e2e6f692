UPDATE run SET pid = :pid, pid_started = :started, boot_id = :boot_id, started_at_ms = :now_ms
WHERE id = :run_id AND ended_at_ms IS NULL AND started_at_ms IS NULL
RETURNING {run_columns};
