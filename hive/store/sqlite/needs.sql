SELECT needs_id FROM need WHERE task_id = :id ORDER BY needs_id;
