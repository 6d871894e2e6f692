SELECT {run_columns} FROM run WHERE run.id = :run_id;
