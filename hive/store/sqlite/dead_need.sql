SELECT task.id, task.state FROM need JOIN task ON task.id = need.needs_id
WHERE need.task_id = :id AND task.state IN ('failed', 'cancelled') ORDER BY task.id LIMIT 1;
