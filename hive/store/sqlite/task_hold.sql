UPDATE task SET held = :held WHERE id = :id AND held <> :held AND state NOT IN ('completed', 'failed', 'cancelled') RETURNING {task_columns};
