-- served by need_by_need
SELECT task.id, task.state, task.reason FROM need JOIN task ON task.id = need.task_id WHERE need.needs_id = :id ORDER BY task.id;
