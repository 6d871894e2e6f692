-- run_open is named for the reason given in open_runs
SELECT {run_columns}, {task_columns}
FROM run INDEXED BY run_open JOIN task ON task.id = run.task_id LEFT JOIN incarnation ON incarnation.name = run.shard
WHERE run.ended_at_ms IS NULL
  AND (CASE WHEN incarnation.name IS NULL THEN run.host <> :host -- not made known yet, or never
            ELSE incarnation.lease_until_s <= :monotonic_s OR incarnation.boot_id <> :boot_id END
       OR (run.host = :host AND run.shard NOT IN (SELECT value FROM json_each(:live))))
ORDER BY run.id;
