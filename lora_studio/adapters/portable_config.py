"""An `adapter_config.json` that older releases of PEFT open too: keys they may not know are left out where they say nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KNOWN_SINCE_EVER = frozenset(
    {  # fields of LoraConfig in PEFT 0.9; read by other programs too, and so written whatever they say
        "task_type",
        "peft_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "lora_alpha",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "modules_to_save",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_dora",
    }
)
_TOLD_BY_WRITER = frozenset({"peft_version"})
_NAMES = frozenset({"target_parameters", "exclude_modules"})  # an empty list says nothing; PEFT itself writes it for models with experts


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an adapter's config without newer keys that hold their default: PEFT up to 0.13 refuses keys it does not know.

    What is missing means the default to every release. A newer key that says something stays: a release that does not know it must not load
    the adapter as if it did not matter.

    Args:
        config: As `LoraConfig.to_dict()` or an `adapter_config.json` gives it.
    """
    defaults = _defaults()
    return {
        key: value
        for key, value in config.items()
        if key in _KNOWN_SINCE_EVER or (key not in _TOLD_BY_WRITER and _says(key, value, defaults))
    }


def _says(key: str, value: Any, defaults: Mapping[str, Any]) -> bool:
    """Return whether a newer key holds more than its default."""
    return (key not in defaults or value != defaults[key]) and not (key in _NAMES and not value)


def _defaults() -> dict[str, Any]:
    from peft import LoraConfig

    return LoraConfig().to_dict()
