"""The Hub: one client, one cache, below models and data sets."""
