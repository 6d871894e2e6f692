UPDATE task SET state = 'in_progress', reason = NULL, not_before_at_ms = NULL, attempt = attempt + 1,
                started_at_ms = coalesce(started_at_ms, :now_ms)
WHERE id = :id AND state = 'queued'
RETURNING {task_columns};
