"""Adapter folders, merged models, their certificates and model cards."""
