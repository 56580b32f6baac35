"""Rows to tokens: read, validate, template, mask, tokenize, cache, pack, report; the step plan."""
