SELECT state, held, parked, sum(n) AS n, NULL AS shard, NULL AS due_at_ms FROM counter GROUP BY state, held, parked
UNION ALL SELECT NULL, NULL, NULL, count(*), shard, NULL FROM run WHERE ended_at_ms IS NULL GROUP BY shard
UNION ALL SELECT NULL, NULL, NULL, coalesce((SELECT max(seq) FROM event), 0), NULL,
                 (SELECT min(not_before_at_ms) FROM task WHERE parked = 1 AND held = 0);
