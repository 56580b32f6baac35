"""Adapters on single experts, as transformers 4 had them, carried to the fused parameters of transformers 5 by PEFT's own rules.

PEFT does this whenever it loads such an adapter. Done once, as it is taken in, everything else meets one layout alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.generate.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lora_studio.lora.saved_adapter import parted
from lora_studio.models.safetensors_header import read_header

_SEPARATE = re.compile(r"\.experts\.\d+\.")
FIELD = "path"


def has_separate_experts(adapter: Path) -> bool:
    """Say whether an adapter is on single experts."""
    return any(_SEPARATE.search(name) for name in read_header(adapter / ADAPTER_WEIGHTS).tensors)


def fuse_experts(adapter: Path, base: Path, config: dict[str, Any]) -> tuple[dict[str, Any], list[Finding]]:
    """Write an adapter on single experts anew, as one on fused parameters; give its settings.

    Args:
        adapter: Its folder; its settings were looked at.
        base: The base model's, whose experts are fused as it is loaded.
        config: Its settings.

    Raises:
        InputError: PEFT has no rule for it.
    """
    from peft import LoraConfig
    from peft.utils import transformers_weight_conversion as rules
    from safetensors.torch import load_file, save_file

    from lora_studio.models.inspect import empty_model

    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    model, settings = empty_model(base), LoraConfig.from_pretrained(str(adapter))
    path = adapter / ADAPTER_WEIGHTS
    try:
        rules.convert_peft_config_for_transformers(settings, model, None)
        fused: Any = rules.convert_peft_adapter_state_dict_for_transformers(model, settings, load_file(path))
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise _not_fused(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if any(_SEPARATE.search(name) for name in fused):
        raise _not_fused(f"there is no rule for {next(name for name in fused if _SEPARATE.search(name))}")
    beside = path.with_suffix(".fused")
    save_file({name: tensor.contiguous() for name, tensor in fused.items()}, beside, metadata={"format": "pt"})
    beside.replace(path)
    changed: dict[str, Any] = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}
    message = "Its updates of single experts, as transformers 4 names them, are updates of the fused parameters of transformers 5 now."
    kept = {key: changed[key] for key in ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "exclude_modules")}
    kept["target_parameters"] = _by_whole_name(changed["target_parameters"] or [], fused)
    return {**config, **kept}, [Finding("note", "fused_experts", message, "", FIELD)]


def _by_whole_name(endings: Iterable[str], tensors: Iterable[str]) -> list[str]:
    """Name the parameters of the layers that the adapter is on: an ending would name those of all layers."""
    modules = {found[0].replace(".base_layer", "") for found in map(parted, tensors) if found}
    parameters = [ending.rpartition(".")[2] for ending in endings]
    return sorted(f"{module}.{parameter}" for module in modules if module.endswith(".experts") for parameter in parameters)


def _not_fused(why: str) -> InputError:
    message = f"The adapter is on single experts, as transformers 4 had them, and PEFT cannot carry it to this base's fused ones: {why}."
    return InputError(message, "Merge it with the transformers 4 it was trained with, and use the merged model as a base.", FIELD)
