-- served by the unique index on (batch_id, key)
SELECT id, state FROM task WHERE batch_id = :batch_id AND key = :key;
