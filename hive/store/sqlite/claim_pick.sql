-- served by task_startable; the id breaks ties by age
SELECT id, priority FROM task
WHERE state = 'queued' AND held = 0 AND parked = 0 AND role = :role
ORDER BY priority DESC, id LIMIT :room;
