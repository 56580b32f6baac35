"""Files of a data set, their columns, and how they read."""
