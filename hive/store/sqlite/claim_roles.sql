-- a handful of counter rows, however long the queue
SELECT role, sum(CASE WHEN state = 'queued' AND held = 0 AND parked = 0 THEN n ELSE 0 END) AS startable,
       sum(CASE WHEN state = 'in_progress' THEN n ELSE 0 END) AS running
FROM counter GROUP BY role;
