"""Runs any long task in a thread or a process: start, progress, cancel, result, telemetry."""
