"""Every forward and backward pass of ours: attention, fused LoRA layers, MLPs and norms, the head and its loss."""
