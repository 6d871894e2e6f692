UPDATE batch SET reserved_usd = max(0, reserved_usd + :usd) WHERE id = (SELECT batch_id FROM task WHERE id = :task_id);
