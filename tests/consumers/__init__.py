"""What other programs read of what we write: a long suite, outside CI. `python -m tests.consumers`."""
