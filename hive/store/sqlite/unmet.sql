SELECT count(*) AS n FROM need JOIN task ON task.id = need.needs_id WHERE need.task_id = :id AND task.state <> 'completed';
