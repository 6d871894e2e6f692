UPDATE steering SET changes = changes + 1 WHERE id = 1;
