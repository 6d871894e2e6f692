UPDATE task SET state = :state, phase = :phase, reason = :reason, attempt = :attempt, round = :round, alike = :alike,
                not_before_at_ms = :not_before_at_ms, parked = :parked, feedback = :feedback,
                failure_code = :failure_code, failure_message = :failure_message, failure_group = :failure_group,
                session_id = :session_id, head_commit = coalesce(:commit, head_commit), exit_code = :exit_code,
                cancel_requested = CASE WHEN :final THEN 0 ELSE cancel_requested END,
                input_tokens = input_tokens + :input_tokens, output_tokens = output_tokens + :output_tokens,
                cache_read_tokens = cache_read_tokens + :cache_read_tokens,
                cache_creation_tokens = cache_creation_tokens + :cache_creation_tokens,
                cost_usd = cost_usd + :cost_usd, duration_s = duration_s + :duration_s, runs = runs + 1,
                finished_at_ms = CASE WHEN :final THEN :now_ms END
WHERE id = :id AND state = 'in_progress'
RETURNING {task_columns};
