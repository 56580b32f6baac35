"""Adapters from elsewhere: looked at before anything in them is obeyed, held against the base."""
