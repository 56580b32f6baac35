"""Adapters of mlx-lm, read and written."""
