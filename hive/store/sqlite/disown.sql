UPDATE task SET parent_id = NULL WHERE parent_id = :id;
