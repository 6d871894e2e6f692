UPDATE task SET cancel_requested = 1 WHERE id = :id AND state = 'in_progress' AND cancel_requested = 0;
