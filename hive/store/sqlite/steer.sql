UPDATE steering SET paused = coalesce(:paused, paused), agents = coalesce(:agents, agents), stop = coalesce(:stop, stop) WHERE id = 1;
