"""An adapter as mlx-lm reads one: `adapters.safetensors` and a config with one rank and one scale for all modules; see `mlx_format`.

Ranks below the largest are filled up with zeros. Where modules differ in scale it goes into B, and the config's is 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lora_studio.core.errors import InputError
from lora_studio.export.gguf.adapter import is_same_update
from lora_studio.export.merge.changes import refuse_changed_base
from lora_studio.export.mlx.fit import beyond_mlx
from lora_studio.export.mlx.format import MLX_WEIGHTS
from lora_studio.export.redact import public_name
from lora_studio.inference.adapters import ADAPTER_CONFIG
from lora_studio.models.check import read_model_config

if TYPE_CHECKING:
    from torch import Tensor

    from lora_studio.adapters.saved_adapter import AdapterTensors, SavedAdapter, SavedPair
    from lora_studio.core.modules import ModuleTree

_LAYER = re.compile(r"(?P<before>.*\.layers)\.(?P<number>\d+)\.(?P<module>.+)")


def refuse_beyond_mlx(adapter: SavedAdapter, base: Path, tree: ModuleTree) -> None:
    """See that an adapter can be written for mlx-lm.

    Raises:
        InputError: It is more than A and B, or of a family whose layers mlx-lm calls otherwise.
    """
    refuse_changed_base(adapter)
    reason = beyond_mlx(adapter, str(read_model_config(base).get("model_type", "")), tree)
    if reason:
        raise InputError(reason, "Merge it: mlx-lm loads the merged folder.", "kind")


def write_mlx_adapter(adapter: SavedAdapter, tree: ModuleTree, base_name: str, folder: Path) -> None:
    """Write an adapter into a folder.

    Raises:
        OSError: The disk does not take it.
    """
    pairs = list(adapter.pairs.values())
    scales = {pair.scale for pair in pairs}
    scale, rank = (scales.pop() if len(scales) == 1 else 1.0), max(pair.r for pair in pairs)
    made: dict[str, Tensor] = {}
    with adapter.reading() as tensors:
        for pair in pairs:
            made |= _written(pair, tensors, rank, folded=scale != pair.scale)
    save_file(made, folder / MLX_WEIGHTS, metadata={"format": "mlx"})
    keys, layers = _keys([pair.name for pair in pairs], tree)
    config: dict[str, Any] = {
        "fine_tune_type": "dora" if adapter.config.get("use_dora") else "lora",
        "model": public_name(base_name),
        "num_layers": layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys},
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _written(pair: SavedPair, tensors: AdapterTensors, rank: int, *, folded: bool) -> dict[str, Tensor]:
    """Return a module's tensors: A in × r, B r × out, and of DoRA the lengths."""
    a, b = tensors.get(pair.a_key), tensors.get(pair.b_key)
    b = b.float() * pair.scale if folded else b
    found = {"lora_a": _filled(a.T, (a.shape[1], rank)), "lora_b": _filled(b.T, (rank, b.shape[0]))}
    if pair.magnitude_key:
        found["m"] = tensors.get(pair.magnitude_key).reshape(-1).clone()
    return {f"{pair.name}.{part}": tensor for part, tensor in found.items()}


def _filled(values: Tensor, shape: tuple[int, int]) -> Tensor:
    whole = torch.zeros(shape, dtype=values.dtype)
    whole[: values.shape[0], : values.shape[1]] = values
    return whole


def _keys(names: list[str], tree: ModuleTree) -> tuple[list[str], int]:
    """Return the config's `keys` and `num_layers`: modules of each of the last layers where that says it, else whole names."""
    layers = {int(found["number"]) for module in tree.by_name for found in [_LAYER.fullmatch(module)] if found}
    by_layer: dict[int, set[str]] = {}
    for found in map(_LAYER.fullmatch, names):
        if found is None:
            break
        by_layer.setdefault(int(found["number"]), set()).add(found["module"])
    else:
        same = {frozenset(modules) for modules in by_layer.values()}
        if len(same) == 1 and by_layer.keys() == set(sorted(layers)[-len(by_layer) :]):
            return sorted(same.pop()), len(by_layer)
    return sorted(names), max(1, len(layers))


def mlx_adapter_fault(adapter: SavedAdapter, tree: ModuleTree, folder: Path) -> tuple[int, str]:
    """Read a written adapter again as mlx-lm does and recompute every update; give how many were compared, and what is wrong with one.

    `gguf_adapter.is_same_update` says how near is near enough.
    """
    config: Any = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    scale, rank = config["lora_parameters"]["scale"], config["lora_parameters"]["rank"]
    reached = set(_reached(config, tree))
    missed = sorted(adapter.pairs.keys() - reached)
    if missed:
        return 0, f"mlx-lm would put no adapter on {missed[0]}"
    with safe_open(str(folder / MLX_WEIGHTS), framework="pt") as file, adapter.reading() as tensors:
        found: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a file, no mapping)
        for count, pair in enumerate(adapter.pairs.values()):
            if not _is_right(pair, found, tensors, float(scale), int(rank)):
                return count, f"its update of {pair.name} is not the adapter's"
    return len(adapter.pairs), "" if not found else f"it has more than the adapter: {sorted(found)[0]}"


def _is_right(pair: SavedPair, found: dict[str, Tensor], tensors: AdapterTensors, scale: float, rank: int) -> bool:
    a, b = (found.pop(f"{pair.name}.{part}", torch.empty(0)).double().T for part in ("lora_a", "lora_b"))
    lengths = found.pop(f"{pair.name}.m", None)
    if (lengths is None) == bool(pair.magnitude_key):
        return False
    if lengths is not None and not torch.equal(lengths, tensors.get(pair.magnitude_key).reshape(-1)):
        return False
    own_a, own_b = (factor.double() for factor in tensors.factors(pair.name))
    if a.shape != (rank, own_a.shape[1]) or b.shape != (own_b.shape[0], rank):
        return False
    return is_same_update(a, b * scale, own_a, own_b * pair.scale, None)


def _reached(config: Mapping[str, Any], tree: ModuleTree) -> Iterator[str]:
    """Name the modules that mlx-lm gives an adapter: `linear_to_lora_layers`."""
    keys: set[str] = set(config["lora_parameters"]["keys"])
    layers = {int(found["number"]) for module in tree.by_name for found in [_LAYER.fullmatch(module)] if found}
    last = set(sorted(layers)[-max(config["num_layers"], 0) :])
    for module in tree.by_name:
        found = _LAYER.fullmatch(module)
        if module in keys or (found and int(found["number"]) in last and found["module"] in keys):
            yield module
