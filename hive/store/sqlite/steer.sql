UPDATE steering SET paused = coalesce(:paused, paused),
                    agents = CASE WHEN :agents IS NULL THEN agents ELSE nullif(:agents, 0) END,
                    stop = coalesce(:stop, stop)
WHERE id = 1;
