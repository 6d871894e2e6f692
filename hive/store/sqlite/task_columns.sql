task.id, (SELECT name FROM batch WHERE batch.id = task.batch_id) AS batch, task.key, task.parent_id, task.role,
task.priority, task.spec, task.state, task.phase, task.reason, task.attempt, task.round, task.held,
task.cancel_requested, task.not_before_at_ms, task.session_id, task.branch, task.base_commit, task.head_commit,
task.workspace, task.feedback, task.failure_code, task.failure_message, task.failure_group, task.alike,
task.exit_code, task.input_tokens, task.output_tokens, task.cache_read_tokens, task.cache_creation_tokens,
task.cost_usd, task.duration_s, task.runs, task.created_at_ms, task.started_at_ms, task.finished_at_ms
