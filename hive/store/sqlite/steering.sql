SELECT paused, agents, stop, changes FROM steering WHERE id = 1;
