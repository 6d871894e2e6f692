-- served by task_parked
UPDATE task SET parked = 0 WHERE parked = 1 AND not_before_at_ms <= :now_ms;
