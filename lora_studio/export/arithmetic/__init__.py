"""Adapters added, scaled, extracted, and the certificate of what came out."""
