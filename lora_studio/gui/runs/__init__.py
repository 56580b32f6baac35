"""Runs as the window starts, queues, shows and hands them over."""
