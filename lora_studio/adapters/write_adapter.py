"""Updates written as an ordinary PEFT folder: A and B in float32, one rank and alpha where that can be, scale 1 everywhere."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lora_studio.adapters.carried import Carried
from lora_studio.adapters.deltas import Delta
from lora_studio.adapters.portable_config import portable
from lora_studio.adapters.saved_adapter import CONFIG_NAME, OWN_NAMES, PREFIX, WEIGHTS_NAME
from lora_studio.core.targets.compile import compile_patterns
from lora_studio.core.targets.selection import Selection


def write_adapter(folder: Path, config: Mapping[str, Any], deltas: Mapping[str, Delta], carried: Carried | None = None) -> None:
    """Write updates into a folder, and what goes along with them.

    Args:
        folder: An empty folder.
        config: An adapter's `adapter_config.json`, whose base, task and layout the result shares.
        deltas: Updates by module.
        carried: What goes along; of a tokenizer nothing is written here.

    Raises:
        OSError: The disk does not take it.
    """
    from safetensors.torch import save_file

    carried = carried or Carried()
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
        "trainable_token_indices": None,
        "init_lora_weights": True,
        "inference_mode": True,
        **carried.settings,
    }
    (folder / CONFIG_NAME).write_text(json.dumps(portable({**config, **changed}), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tensors: dict[str, torch.Tensor] = {}
    for name, delta in deltas.items():
        a, b = keys_of(name, embedding=delta.embedding)
        tensors |= {a: delta.a.float().contiguous(), b: delta.b.float().contiguous()}
    for key, (adapter, own) in carried.tensors.items():
        with adapter.reading() as file:
            tensors[key] = file.get(own)
    renamed = {carried.names[key]: key for key in tensors if key in carried.names}
    metadata = {"format": "pt", **({OWN_NAMES: json.dumps(renamed)} if renamed else {})}
    save_file({carried.names.get(key, key): tensor for key, tensor in tensors.items()}, folder / WEIGHTS_NAME, metadata=metadata)


def keys_of(name: str, *, embedding: bool = False) -> tuple[str, str]:
    """Return what a module's A and B are called in a file."""
    a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    return f"{PREFIX}{name}.{a}", f"{PREFIX}{name}.{b}"
