run.id AS run_id, run.task_id AS run_task_id, run.phase AS run_phase, run.attempt AS run_attempt,
run.round AS run_round, run.shard AS run_shard, run.host AS run_host, run.opened_at_ms AS run_opened_at_ms,
run.started_at_ms AS run_started_at_ms, run.ended_at_ms AS run_ended_at_ms, run.pid AS run_pid,
run.pid_started AS run_pid_started, run.boot_id AS run_boot_id, run.outcome AS run_outcome,
run.released AS run_released, run.failure_code AS run_failure_code, run.failure_message AS run_failure_message,
run.failure_group AS run_failure_group, run.exit_code AS run_exit_code, run.session_id AS run_session_id,
run.input_tokens AS run_input_tokens, run.output_tokens AS run_output_tokens,
run.cache_read_tokens AS run_cache_read_tokens, run.cache_creation_tokens AS run_cache_creation_tokens,
run.cost_usd AS run_cost_usd, run.duration_s AS run_duration_s, run.reserved_usd AS run_reserved_usd
