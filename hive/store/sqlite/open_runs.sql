-- run_open is named because the planner would rather go through every run there ever was than sort the few open ones
SELECT {run_columns} FROM run INDEXED BY run_open WHERE run.ended_at_ms IS NULL AND run.host = :host ORDER BY run.id;
