UPDATE task SET workspace = :path, branch = :branch, base_commit = :base WHERE id = :id;
