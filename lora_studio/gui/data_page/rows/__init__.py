"""The rows as a table, their details, and search."""
