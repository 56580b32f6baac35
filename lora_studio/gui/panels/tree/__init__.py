"""The target tree: which modules of the base model get an adapter."""
