SELECT batch.name AS batch, coalesce(sum(task.runs), 0) AS runs, coalesce(sum(task.input_tokens), 0) AS input_tokens,
       coalesce(sum(task.output_tokens), 0) AS output_tokens, coalesce(sum(task.cache_read_tokens), 0) AS cache_read_tokens,
       coalesce(sum(task.cache_creation_tokens), 0) AS cache_creation_tokens, coalesce(sum(task.cost_usd), 0.0) AS cost_usd,
       coalesce(sum(task.duration_s), 0.0) AS duration_s
FROM batch LEFT JOIN task ON task.batch_id = batch.id GROUP BY batch.id ORDER BY batch.name;
