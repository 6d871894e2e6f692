UPDATE task SET priority = :priority WHERE id = :id AND state NOT IN ('completed', 'failed', 'cancelled') RETURNING {task_columns};
