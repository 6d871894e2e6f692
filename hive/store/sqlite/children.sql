-- served by task_parent
SELECT id, state FROM task WHERE parent_id = :id ORDER BY id;
