SELECT {task_columns} FROM task
WHERE (:after_id = 0 OR task.id < :after_id)
  AND (:ids IS NULL OR task.id IN (SELECT value FROM json_each(:ids)))
  AND (:states IS NULL OR task.state IN (SELECT value FROM json_each(:states)))
  AND (:batch IS NULL OR task.batch_id = (SELECT id FROM batch WHERE name = :batch))
  AND (:failure_group IS NULL OR task.failure_group = :failure_group)
  AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(task.spec, '$.tags') WHERE value = :tag))
  AND (:text IS NULL OR instr(lower(task.spec ->> '$.title' || char(10) || coalesce(task.key, '') || char(10)
                                    || (task.spec ->> '$.prompt')), lower(:text)) > 0)
ORDER BY task.id DESC LIMIT :limit;
