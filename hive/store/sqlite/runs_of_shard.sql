-- served by run_open
SELECT run.id, task.cancel_requested FROM run JOIN task ON task.id = run.task_id
WHERE run.shard = :shard AND run.ended_at_ms IS NULL;
