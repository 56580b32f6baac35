"""What a run will take before it starts: memory, operations, what fits on which device, and what would make it smaller."""
