"""What PEFT itself makes of a config on the meta device: the oracle our arithmetic is held against."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.modules import ModuleTree
from tests.tiny import tiny_config


@dataclass(frozen=True)
class Injected:
    """What PEFT injected: rank and scaling by name, modules trained in full, and its two counts."""

    ranks: dict[str, int]
    scalings: dict[str, float]
    saved: frozenset[str]
    trainable: int
    total: int


def meta_model(architecture: str, **changes: Any) -> Any:
    """Build a model of an architecture under test without weights."""
    return model_of(tiny_config(architecture, **changes))


def model_of(config: Any) -> Any:
    """Build the model of a transformers config without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def tree_of(model: Any) -> ModuleTree:
    """Describe a model's modules."""
    from lora_studio.models.inspect import tree_of as describe

    model.tie_weights()
    return describe(model)


def inject(model: Any, config: Any) -> Any:
    """Let PEFT inject; what it warns of is not under test."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, config, low_cpu_mem_usage=True)


def injected(peft_model: Any) -> Injected:
    """Read off what PEFT injected."""
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper
    from peft.utils import ModulesToSaveWrapper

    ranks: dict[str, int] = {}
    scalings: dict[str, float] = {}
    saved: set[str] = set()
    for name, module in peft_model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            target = name.replace(".base_layer", "") + (f".{module.parameter_name}" if isinstance(module, ParamWrapper) else "")
            ranks[target] = module.r["default"]
            scalings[target] = module.scaling["default"]
        elif isinstance(module, ModulesToSaveWrapper):
            saved.add(name)
    trainable, total = peft_model.get_nb_trainable_parameters()
    return Injected(ranks, scalings, frozenset(saved), trainable, total)


def reloaded_config(peft_model: Any, folder: Path) -> Any:
    """Save the adapter's config as PEFT does and read it back."""
    from peft import LoraConfig

    config = peft_model.peft_config["default"]
    config.save_pretrained(str(folder))
    return LoraConfig.from_pretrained(str(folder))
