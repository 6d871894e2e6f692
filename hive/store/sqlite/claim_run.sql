INSERT INTO run (task_id, phase, attempt, round, shard, host, opened_at_ms, session_id, reserved_usd)
VALUES (:task_id, :phase, :attempt, :round, :shard, :host, :now_ms, :session_id, :reserved_usd)
RETURNING {run_columns};
