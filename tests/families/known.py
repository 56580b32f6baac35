"""What falls short today, by family and check, and why: named in the table, and no news to the tests."""

from __future__ import annotations

KNOWN: dict[str, dict[str, str]] = {}
"""Check by check; `config` where there is no tiny model of the family."""
