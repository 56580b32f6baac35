"""Rows to tokens: read, validate, template, mask, report; the step plan."""
