"""Adapters: settings to `LoraConfig`, inject, count, memory budget."""
