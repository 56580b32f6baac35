"""Beginning from an adapter that is there already: its update, put into the new adapter exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lora_studio.adapters.put_on import set_tensors
from lora_studio.adapters.saved_adapter import with_own_names
from lora_studio.core.errors import InputError
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, find_adapter
from lora_studio.inference.loaded_model import active_config

FIELD = "adapter.warm_start"
_DOWN, _UP = "lora_A", "lora_B"
_NAMED = 3


def warm_adapter(source: str) -> Path:
    """Return the folder of the adapter that a run is to begin from.

    Raises:
        InputError: `source` names no run, checkpoint or adapter folder, or one that is broken.
    """
    adapter = find_adapter(source).adapter
    if adapter is None:
        message = f"{source} is no run and holds no PEFT adapter to begin from."
        raise InputError(message, "Give a run, a checkpoint or an adapter folder.", FIELD)
    return adapter


@torch.no_grad()
def warm_up(model: PeftModel, source: str) -> list[str]:
    """Put the update of a saved adapter into a freshly made one; give the modules that it says nothing of, which start from zero.

    A larger rank takes the same update and has room beside it: its further rows of A stay as they were drawn, its columns of B zero. What
    scales the updates goes into B, so that the first step starts from base + adapter to the last bit of the factors' products.

    Args:
        model: With its adapter, B zero.
        source: A run, a checkpoint or any PEFT adapter folder.

    Raises:
        InputError: The adapter has what the new one has no place for: other modules, a larger rank, another kind.
    """
    folder = warm_adapter(source)
    config, given = _read(folder)
    _refuse_other_kind(model, config)
    own: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    lost = sorted({_module_of(key) for key in given.keys() - own.keys()})
    if lost:
        message = f"The adapter to begin from has {_listed(lost)}, which are no targets here."
        raise InputError(message, "Tick them, or choose another adapter.", FIELD)
    taken = {key: _fitted(key, tensor, own[key], config, model) for key, tensor in given.items()}
    set_tensors(model, {**own, **taken})
    return sorted({_module_of(key) for key in own.keys() - given.keys()})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        _, stored = with_own_names(folder / ADAPTER_WEIGHTS)
        own = {key: name for name, key in stored.items()}
        return config, {own.get(key, key): tensor for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"The adapter in {folder} cannot be read: {error}.", "Copy it again from where it came from.", FIELD) from error


def _refuse_other_kind(model: PeftModel, config: dict[str, Any]) -> None:
    own = active_config(model)
    if str(config.get("peft_type")) != "LORA":
        raise InputError(f"The adapter to begin from is of the kind {config.get('peft_type')}, not LORA.", "Choose a LoRA adapter.", FIELD)
    if bool(config.get("use_dora")) != bool(own.use_dora):
        message = f"The adapter to begin from has use_dora {str(bool(config.get('use_dora'))).lower()}, this one not."
        raise InputError(message, "Set use_dora alike.", "adapter.use_dora")


def _fitted(key: str, given: Tensor, own: Tensor, config: dict[str, Any], model: PeftModel) -> Tensor:
    """Return a tensor of the saved adapter in the shape and scale of the new one's."""
    down, up = f".{_DOWN}" in key or "lora_embedding_A" in key, f".{_UP}" in key or "lora_embedding_B" in key
    axis = 0 if down else 1
    if not (down or up) or "lora_embedding" in key:
        if given.shape != own.shape:
            raise _other_shape(key, given, own)
    elif given.shape[1 - axis] != own.shape[1 - axis] or given.shape[axis] > own.shape[axis]:
        raise _other_shape(key, given, own)
    if not up:
        return torch.cat([given.to(own), own[given.shape[0] :]]) if down and given.shape != own.shape else given.to(own)
    rank = given.shape[axis]
    ratio = _scale(config, _module_of(key), rank) / _scale(active_config(model).to_dict(), _module_of(key), own.shape[axis])
    fitted = torch.zeros_like(own)
    fitted[:, :rank] = given.float() * ratio
    return fitted


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """Return what PEFT multiplies a module's B·A by."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), 0) or config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _other_shape(key: str, given: Tensor, own: Tensor) -> InputError:
    if given.dim() == 2 and own.dim() == 2 and f".{_DOWN}" in key and given.shape[1] == own.shape[1]:
        message = (
            f"The adapter to begin from has rank {given.shape[0]} on {_module_of(key)}, this one {own.shape[0]}: part of it would be lost."
        )
        return InputError(message, f"Set r to {given.shape[0]} or more.", "adapter.r")
    return InputError(
        f"The adapter to begin from does not fit {_module_of(key)}: {tuple(given.shape)} against {tuple(own.shape)}.",
        "It is of another base model, or of another kind.",
        FIELD,
    )


def _module_of(key: str) -> str:
    """Return the module's name in the base model that a saved tensor belongs to."""
    return key.removeprefix("base_model.model.").partition(".lora_")[0].removesuffix(".weight")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
