"""What is wrong with files and rows, and what mends it."""
