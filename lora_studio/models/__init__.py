"""Base models: find, download, read facts, inspect on the meta device, load, fingerprint."""
