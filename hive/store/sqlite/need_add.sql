INSERT OR IGNORE INTO need (task_id, needs_id) VALUES (:task_id, :needs_id);
