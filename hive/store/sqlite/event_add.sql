INSERT INTO event (at_ms, kind, task_id, run_id, data) VALUES (:now_ms, :kind, :task_id, :run_id, :data);
