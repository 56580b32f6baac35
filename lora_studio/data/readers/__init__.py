"""Files of every format into records, from which reading can start anywhere."""
