-- served by event_task
SELECT seq, at_ms, kind, task_id, run_id, data FROM event WHERE task_id = :task_id AND seq > :after ORDER BY seq LIMIT :limit;
