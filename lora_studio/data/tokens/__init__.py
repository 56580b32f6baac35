"""Text into tokens, kept in a cache, and the lens that shows them."""
