"""By which names in an adapter's file PEFT finds a model's modules again.

PEFT takes every name in such a file for one of the model's own files, and renames it by transformers' rules as transformers does there,
also where it is the name in memory already, which is what PEFT itself writes. Mostly no rule knows that name. Where one does, PEFT looks
for the module under a third name, finds none, and warns; the module then works as if it had no adapter.
Source: `convert_peft_adapter_state_dict_for_transformers` in PEFT 0.21's `utils/transformers_weight_conversion.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
"""What PEFT puts before every name in an adapter's file."""
UNREAD = "PEFT loads no adapter here: it takes the module's name for another one"


def names_for_peft(model: PreTrainedModel, keys: Collection[str]) -> dict[str, str]:
    """Say what the tensors that PEFT would not find a place for are to be called for it to find it.

    Args:
        model: The base model, on whatever device.
        keys: Names of LoRA tensors as PEFT writes them, such as `base_model.model.lm_head.lora_A.weight`.

    Returns:
        By the keys that PEFT misreads, the name it reads rightly: the one that the module has on disk; empty where it misreads that too.
    """
    lost = set(keys) - _read_as(model, keys)
    if not lost:
        return {}
    on_disk = {key: _on_disk(model, key) for key in sorted(lost)}
    found = _read_as(model, [on_disk.get(key, key) for key in keys])
    return {key: name if key in found and name not in keys else "" for key, name in on_disk.items()}


def unread_modules(model: PreTrainedModel, modules: Iterable[str]) -> set[str]:
    """Name those modules whose adapter PEFT would not load by any name."""
    keys = {f"{PREFIX}{module}.lora_A.weight": module for module in modules}
    return {keys[key] for key, name in names_for_peft(model, keys.keys()).items() if not name}


def _read_as(model: PreTrainedModel, keys: Iterable[str]) -> set[str]:
    """Return the names that PEFT makes of those in a file."""
    import torch
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    one = torch.empty((1, 1), device="meta")
    given: Any = dict.fromkeys(keys, one)
    return set(convert_peft_adapter_state_dict_for_transformers(model, LoraConfig(), given))


def _on_disk(model: PreTrainedModel, key: str) -> str:
    """Return a key with its module's name as transformers writes it to disk."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    rules: list[Any] = get_model_conversion_mapping(model)
    back: list[Any] = [copy.deepcopy(rule).reverse_transform() for rule in reversed(rules) if isinstance(rule, WeightRenaming)]
    module, mark, part = key.removeprefix(PREFIX).partition(".lora_")
    named, _ = rename_source_key(f"{module}.weight", back, [])
    return f"{PREFIX}{named.removesuffix('.weight')}{mark}{part}"
