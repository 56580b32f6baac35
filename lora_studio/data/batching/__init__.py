"""Rows into micro-batches: order, packing, padding, and the steps of a run."""
