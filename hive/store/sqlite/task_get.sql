SELECT {task_columns} FROM task WHERE task.id = :id;
