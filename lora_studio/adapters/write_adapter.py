"""Updates written as an ordinary PEFT folder: A and B in float32, one rank and alpha where that can be, scale 1 everywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lora_studio.adapters.deltas import Delta
from lora_studio.adapters.portable_config import portable
from lora_studio.adapters.saved_adapter import CONFIG_NAME, PREFIX, WEIGHTS_NAME
from lora_studio.core.targets.compile import compile_patterns
from lora_studio.core.targets.selection import Selection


def write_adapter(folder: Path, config: Mapping[str, Any], deltas: Mapping[str, Delta]) -> None:
    """Write updates into a folder.

    Args:
        folder: An empty folder.
        config: An adapter's `adapter_config.json`, whose base, task and layout the result shares.
        deltas: Updates by module.

    Raises:
        OSError: The disk does not take it.
    """
    from safetensors.torch import save_file

    ranks = {name: delta.rank for name, delta in deltas.items()}
    r = Counter(ranks.values()).most_common(1)[0][0]
    own = {name: rank for name, rank in ranks.items() if rank != r}
    patterns = compile_patterns(Selection(frozenset(deltas), own, {name: float(rank) for name, rank in own.items()}), r, float(r))
    changed = {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": dict(patterns.rank_pattern),
        "alpha_pattern": dict(patterns.alpha_pattern),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "target_modules": sorted(deltas),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": None,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    (folder / CONFIG_NAME).write_text(json.dumps(portable({**config, **changed}), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors: dict[str, torch.Tensor] = {}
    for name, delta in deltas.items():
        a, b = ("lora_embedding_A", "lora_embedding_B") if delta.embedding else ("lora_A.weight", "lora_B.weight")
        tensors[f"{PREFIX}{name}.{a}"] = delta.a.float().contiguous()
        tensors[f"{PREFIX}{name}.{b}"] = delta.b.float().contiguous()
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
