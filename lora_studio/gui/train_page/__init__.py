"""The Train page: live curves, log, what to do before a start."""
