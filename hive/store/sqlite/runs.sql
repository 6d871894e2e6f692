SELECT {run_columns} FROM run WHERE run.task_id = :id ORDER BY run.id;
