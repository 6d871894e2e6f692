-- served by run_open
SELECT shard, count(*) AS n FROM run WHERE ended_at_ms IS NULL GROUP BY shard;
