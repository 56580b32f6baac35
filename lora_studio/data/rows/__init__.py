"""Records into conversations: formats, values, what is wrong with a row."""
