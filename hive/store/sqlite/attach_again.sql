UPDATE run SET pid = coalesce(:pid, pid), pid_started = coalesce(:started, pid_started), boot_id = coalesce(:boot_id, boot_id)
WHERE id = :run_id AND ended_at_ms IS NULL;
