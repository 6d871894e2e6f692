-- moves a task that no run carries
UPDATE task SET state = :state, phase = coalesce(:phase, phase), reason = :reason, parked = 0, not_before_at_ms = NULL,
                attempt = CASE WHEN :reset THEN 0 ELSE attempt END, round = CASE WHEN :reset THEN 0 ELSE round END,
                alike = CASE WHEN :reset THEN 0 ELSE alike END, feedback = coalesce(:feedback, feedback),
                failure_code = :failure_code, failure_message = :failure_message, failure_group = :failure_group,
                cancel_requested = 0,
                finished_at_ms = CASE WHEN :final THEN :now_ms END
WHERE id = :id AND state = :was
RETURNING {task_columns};
