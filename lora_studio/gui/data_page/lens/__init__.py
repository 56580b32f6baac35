"""Rows token by token, with what is trained."""
