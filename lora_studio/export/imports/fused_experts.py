"""Adapters on single experts and routers, as transformers 4 had them, carried to the parameters of transformers 5 by PEFT's own rules.

PEFT does this whenever it loads such an adapter. Done once, as it is taken in, everything else meets one layout alone.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_studio.adapters.saved_adapter import PREFIX, parted
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import read_header

_SEPARATE = re.compile(r"\.experts\.\d+\.")
_MIXTRAL = ".block_sparse_moe."
MERGE = "Merge it with the transformers 4 it was trained with, and use the merged model as a base."
"""The way out where PEFT cannot carry it."""
FIELD = "path"


def is_on_parameters(adapter: Path, config: dict[str, Any], tree: ModuleTree) -> bool:
    """Return whether an adapter is on single experts, or on a router as on the module it was.

    Args:
        adapter: Its folder.
        config: Its settings.
        tree: The base model's.
    """
    names = list(read_header(adapter / ADAPTER_WEIGHTS).tensors)
    if any(map(_SEPARATE.search, names)):
        return True
    named = tuple(f".{parameter}" for parameter in config.get("target_parameters") or [])
    for module in {found[0] for found in map(parted, names) if found}:
        parameter = tree.by_name.get(f"{module}.weight")
        is_router = parameter is not None and parameter.kind == "experts" and not f".{parameter.name}".endswith(named)
        if is_router or (_MIXTRAL in module and module not in tree.by_name):
            return True
    return False


def fuse_experts(adapter: Path, base: Path, config: dict[str, Any], way_out: str = MERGE) -> tuple[dict[str, Any], list[Finding]]:
    """Write an adapter on single experts or routers anew, as one on parameters; give its settings.

    Args:
        adapter: Its folder; its settings were looked at.
        base: The base model's, whose experts are fused as it is loaded.
        config: Its settings.
        way_out: What to do instead where PEFT cannot.

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
        raise _not_fused(str(error).splitlines()[0] if str(error) else type(error).__name__, way_out) from error
    if any(_SEPARATE.search(name) for name in fused):
        raise _not_fused(f"there is no rule for {next(name for name in fused if _SEPARATE.search(name))}", way_out)
    beside = path.with_suffix(".fused")
    save_file({name: tensor.contiguous() for name, tensor in fused.items()}, beside, metadata={"format": "pt"})
    beside.replace(path)
    changed: dict[str, Any] = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}
    message = "Its updates of experts and routers, as transformers 4 names them, are updates of the parameters of transformers 5 now."
    kept = {key: changed[key] for key in ("target_modules", "target_parameters", "rank_pattern", "alpha_pattern", "exclude_modules")}
    kept["target_parameters"] = _by_whole_name(changed["target_parameters"] or [], fused)
    return {**config, **kept}, [Finding("note", "fused_experts", message, "", FIELD)]


def refuse_lost(adapter: Path, base: Path, way_out: str = MERGE) -> None:
    """See that PEFT puts all of an adapter on a base with experts, and nothing else: it takes any module called as experts were for one.

    Args:
        adapter: Its folder.
        base: The base model's.
        way_out: What to do instead where PEFT does not.

    Raises:
        InputError: A part of it would be without effect.
    """
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    from lora_studio.models.inspect import empty_model

    settings: Any = LoraConfig.from_pretrained(str(adapter))
    settings.inference_mode, settings.init_lora_weights = True, False
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model: Any = get_peft_model(empty_model(base), settings, low_cpu_mem_usage=True)
            asked = {name for name in get_peft_model_state_dict(model, save_embedding_layers=False) if parted(name)}
    except (ValueError, KeyError) as error:
        raise InputError(f"PEFT cannot put the adapter on this base: {str(error).split('. ')[0][:200]}.", way_out, FIELD) from error
    held = {name for name in read_header(adapter / ADAPTER_WEIGHTS).tensors if parted(name)}
    lost = sorted(held - asked) or sorted(asked - held)
    if lost:
        name, _ = parted(lost[0]) or (lost[0], "")
        what = "does not put it on" if held - asked else "asks it for an update, which it has not, of"
        because = "in a model with experts PEFT reads names such as down_proj as theirs, wherever they stand"
        raise InputError(f"PEFT {what} {name.removeprefix(PREFIX)}: {because}.", way_out, FIELD)


def _by_whole_name(endings: Iterable[str], tensors: Iterable[str]) -> list[str]:
    """Name the parameters of the layers that the adapter is on: an ending would name those of all layers.

    Args:
        endings: As PEFT's rules give them: of experts the parameter alone, of a router its name before it (`gate.weight`).
        tensors: Names in the adapter's file.
    """
    modules = {found[0].replace(".base_layer", "") for found in map(parted, tensors) if found}
    owned = [(owner or "experts", parameter) for owner, _, parameter in (ending.rpartition(".") for ending in endings)]
    return sorted(f"{module}.{parameter}" for module in modules for owner, parameter in owned if module.endswith(f".{owner}"))


def _not_fused(why: str, way_out: str) -> InputError:
    message = f"The adapter is on single experts, as transformers 4 had them, and PEFT cannot carry it to this base's fused ones: {why}."
    return InputError(message, way_out, FIELD)
