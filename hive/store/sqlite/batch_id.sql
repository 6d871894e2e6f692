SELECT id FROM batch WHERE name = :name;
