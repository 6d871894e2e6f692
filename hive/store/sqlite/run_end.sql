UPDATE run SET ended_at_ms = :now_ms, outcome = :outcome, released = :released, failure_code = :failure_code,
               failure_message = :failure_message, failure_group = :failure_group, exit_code = :exit_code,
               session_id = :session_id, input_tokens = :input_tokens, output_tokens = :output_tokens,
               cache_read_tokens = :cache_read_tokens, cache_creation_tokens = :cache_creation_tokens,
               cost_usd = :cost_usd, duration_s = :duration_s
WHERE id = :run_id AND ended_at_ms IS NULL
RETURNING {run_columns};
