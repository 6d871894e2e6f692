SELECT {run_columns}, {task_columns}
FROM json_each(:ids) AS wanted JOIN run ON run.id = wanted.value JOIN task ON task.id = run.task_id
WHERE run.ended_at_ms IS NULL ORDER BY run.id;
