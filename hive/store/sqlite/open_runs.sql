SELECT {run_columns} FROM run WHERE run.ended_at_ms IS NULL AND run.host = :host ORDER BY run.id;
