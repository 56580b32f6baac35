"""How long rows are in tokens, and what `max_length` does to them."""
