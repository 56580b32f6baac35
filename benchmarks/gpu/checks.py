"""The list of checks, the most important first."""

from __future__ import annotations

from benchmarks.gpu.call import Check

_HERE = "benchmarks.gpu"
REQUIRED = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "numpy", "pydantic", "yaml", "jinja2", "psutil")
"""Packages without which nothing can be checked, as they are imported."""

CHECKS = (
    Check(
        "families", "first loss and gradient of every tested family against plain transformers + PEFT", f"{_HERE}.correctness:families", 90
    ),
    Check("kernels", "fused LoRA layers, norms and MLPs against plain ones", f"{_HERE}.correctness:kernels", 40),
    Check("head", "the frozen head's loss, tile by tile, against whole logits", f"{_HERE}.correctness:head", 40),
    Check("packed", "packed rows and rows end to end against rows alone", f"{_HERE}.correctness:packed", 60),
    Check("not_finite", "the device refuses a step with NaN or infinity", f"{_HERE}.correctness:not_finite", 30),
    Check("no_waiting", "no host synchronisation in a step, or between log ticks", f"{_HERE}.engine:no_waiting", 60),
    Check("resume", "stop, checkpoint and resume with equal losses", f"{_HERE}.engine:resume", 60),
    Check("out_of_memory", "a real want of memory halves the micro-batch; the losses stay", f"{_HERE}.engine:out_of_memory", 60),
    Check("merge", "export, certificate, and the merged model on the device", f"{_HERE}.engine:merge", 60),
    Check("telemetry", "memory figures against the system's own", f"{_HERE}.engine:telemetry", 20),
    Check("gloo", "two processes share the device over gloo", f"{_HERE}.ranks:gloo", 60),
    Check("nccl", "gradients and weights by NCCL in a world of one", f"{_HERE}.ranks:nccl", 30, cuda_only="NCCL is for CUDA"),
    Check("matrix_peak", "the best matrix product in each dtype, and memory's bandwidth", f"{_HERE}.speed:matrix_peak", 30),
    Check(
        "speed_1b",
        "goals 1, 2 and 4: 1B at 2,048 tokens, mixed and packed, against Trainer + PEFT",
        f"{_HERE}.speed:one_billion",
        120,
        ("datasets",),
    ),
    Check("speed_1b_trl", "goals 1 and 2: the same against TRL's SFTTrainer", f"{_HERE}.speed:one_billion_trl", 120, ("datasets", "trl")),
    Check("step_overhead", "goal 3: a step over a bare loop", f"{_HERE}.speed:step_overhead", 60),
    Check("speed_8b", "goals 1, 2 and 4: 8B at 4,096 tokens, packed", f"{_HERE}.speed:eight_billion", 150, ("datasets",)),
    Check("speed_8b_trl", "the same against TRL's SFTTrainer", f"{_HERE}.speed:eight_billion_trl", 150, ("datasets", "trl")),
    Check("estimate", "the memory estimate against measured bytes", f"{_HERE}.memory:estimate", 90),
    Check("compiled", "torch_compile on and off", f"{_HERE}.speed:compiled", 120),
    Check("window", "the window's event loop beside a training run", f"{_HERE}.window:window", 120, ("PySide6", "pyqtgraph")),
)
