SELECT seq, at_ms, kind, task_id, run_id, data FROM event WHERE seq > :after ORDER BY seq LIMIT :limit;
