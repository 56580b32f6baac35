"""A merge from file to file: what changes, the plan of it, the tensors written."""
