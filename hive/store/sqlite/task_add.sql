INSERT INTO task (batch_id, key, parent_id, role, priority, spec, state, phase, reason, held,
                  failure_code, failure_message, created_at_ms, finished_at_ms)
VALUES (:batch_id, :key, :parent_id, :role, :priority, :spec, :state, :phase, :reason, :held,
        :failure_code, :failure_message, :now_ms, :finished_at_ms)
RETURNING id;
