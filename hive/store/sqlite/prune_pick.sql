-- served by task_finished
SELECT id FROM task
WHERE finished_at_ms IS NOT NULL AND finished_at_ms < :before_ms
  AND NOT EXISTS (SELECT 1 FROM need JOIN task AS waiter ON waiter.id = need.task_id
                  WHERE need.needs_id = task.id AND waiter.finished_at_ms IS NULL)
  AND NOT EXISTS (SELECT 1 FROM task AS child WHERE child.parent_id = task.id)
  AND (parent_id IS NULL OR (SELECT finished_at_ms FROM task AS parent WHERE parent.id = task.parent_id) IS NOT NULL)
ORDER BY id LIMIT :budget;
