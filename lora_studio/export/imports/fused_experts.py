"""Adapters on single experts and routers, as transformers 4 had them, carried to the parameters of transformers 5 by PEFT's own rules.

PEFT does this whenever it loads such an adapter. Done once, as it is taken in, everything else meets one layout alone.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.adapters.saved_adapter import PREFIX, SavedAdapter, parted
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.export.imports.single_experts import FUSED, PARTNERS, complete_experts
from lora_studio.export.moved_settings import Strengths, pattern_tables, strengths_of
from lora_studio.inference.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

_SEPARATE = re.compile(r"\.experts\.\d+\.")
_NUMBER = re.compile(r"\d+")
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


@dataclass(frozen=True)
class FusedExperts:
    """What became of an adapter on single experts.

    Attributes:
        config: Its settings.
        findings: What is told of it.
        strengths: Rank and scale that each module and parameter is to have, by its name.
    """

    config: dict[str, Any]
    findings: list[Finding]
    strengths: Strengths


def fuse_experts(adapter: Path, base: Path, config: dict[str, Any], tree: ModuleTree, way_out: str = MERGE) -> FusedExperts:
    """Write an adapter on single experts or routers anew, as one on parameters.

    Args:
        adapter: Its folder; its settings were looked at.
        base: The base model's, whose experts are fused as it is loaded.
        config: Its settings.
        tree: The base model's.
        way_out: What to do instead where PEFT cannot.

    Raises:
        InputError: PEFT has no rule for it, or it does not fit the base.
    """
    from safetensors.torch import load_file, save_file

    before = strengths_of(adapter, config)
    path = adapter / ADAPTER_WEIGHTS
    alike, wanted = complete_experts(load_file(path), before, _experts_of(tree), FIELD)
    fused, left, endings = _by_rules(adapter, base, _with_partners(config), alike, way_out)
    fused = {_unwrapped(key, fused): tensor for key, tensor in fused.items()}
    beside = path.with_suffix(".fused")
    save_file({name: tensor.contiguous() for name, tensor in fused.items()}, beside, metadata={"format": "pt"})
    beside.replace(path)
    modules, parameters = _strengths_now(fused, {**before, **wanted}, endings | _router_endings(tree))
    strengths = {**modules, **parameters}
    changed = {**config, **_patterns_of(config, strengths), "target_modules": left}
    if isinstance(config.get("target_modules"), str):  # as a pattern it said which layers, of which PEFT leaves the ends of the names
        changed |= {"target_modules": sorted(modules), "exclude_modules": None}
    changed["target_parameters"] = sorted({*(config.get("target_parameters") or []), *parameters})
    message = "Its updates of experts and routers, as transformers 4 names them, are updates of the parameters of transformers 5 now."
    return FusedExperts(changed, [Finding("note", "fused_experts", message, "", FIELD)], strengths)


def _by_rules(
    adapter: Path, base: Path, config: dict[str, Any], tensors: dict[str, Tensor], way_out: str
) -> tuple[dict[str, Tensor], Any, set[str]]:
    """Have PEFT fuse an adapter's tensors; return them, what is left of its target modules, and its target parameters."""
    from peft import LoraConfig
    from peft.utils import transformers_weight_conversion as rules

    from lora_studio.models.inspect import empty_model

    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    model = empty_model(base)
    settings: Any = LoraConfig.from_pretrained(str(adapter))
    try:
        rules.convert_peft_config_for_transformers(settings, model, None)
        fused: dict[str, Tensor] = rules.convert_peft_adapter_state_dict_for_transformers(model, settings, tensors)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise _not_fused(str(error).splitlines()[0] if str(error) else type(error).__name__, way_out) from error
    if any(_SEPARATE.search(name) for name in fused):
        raise _not_fused(f"there is no rule for {next(name for name in fused if _SEPARATE.search(name))}", way_out)
    left = settings.target_modules
    return fused, sorted(left) if isinstance(left, set) else left, set(settings.target_parameters or ())


def _with_partners(config: dict[str, Any]) -> dict[str, Any]:
    """Name what lies in one parameter with a target as a target too: PEFT fuses both or neither."""
    listed = config.get("target_modules")
    if not isinstance(listed, list):
        return config
    partners = {
        f"{target.rpartition('.')[0]}.{PARTNERS[leaf]}".lstrip(".") for target in listed if (leaf := target.rpartition(".")[2]) in PARTNERS
    }
    return {**config, "target_modules": sorted({*listed, *partners})}


def _experts_of(tree: ModuleTree) -> int:
    """Return how many experts a layer has; the most, where layers differ."""
    return max((module.num_experts for module in tree.modules if module.kind == "experts"), default=0)


def _router_endings(tree: ModuleTree) -> set[str]:
    """Return how the names of routers' weights end."""
    return {".".join(module.name.split(".")[-2:]) for module in tree.modules if module.kind == "experts" and module.num_experts == 1}


def _unwrapped(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Name a tensor of a layer's only fused parameter as PEFT does, which wraps one parameter in another's wrapper."""
    plain = key.replace(".experts.base_layer.", ".experts.")
    return key if plain == key or plain in tensors else plain


def _strengths_now(tensors: Iterable[str], before: Strengths, endings: set[str]) -> tuple[Strengths, Strengths]:
    """Return rank and scale that each module and each parameter is to have, by its name.

    A rule may move a module to another parent; its layer and its own name stay.

    Args:
        tensors: Names in the adapter's file.
        before: What they had; of what was fused, what it is to have.
        endings: Of parameters that are routers' weights, such as `gate.weight`.
    """
    known = {(*_NUMBER.findall(name), name.rpartition(".")[2]): strength for name, strength in before.items()}
    modules: dict[str, tuple[int, float]] = {}
    parameters: dict[str, tuple[int, float]] = {}
    for module in {named[0].replace(".base_layer", "") for named in map(parted, tensors) if named}:
        numbers, own_name = _NUMBER.findall(module), module.rpartition(".")[2]
        if own_name == "experts":
            there = {parameter: known.get((*numbers, parameter)) for parameter in set(FUSED.values())}
            parameters |= {f"{module}.{parameter}": strength for parameter, strength in there.items() if strength}
        else:
            into = parameters if f"{own_name}.weight" in endings else modules
            into[f"{module}.weight" if into is parameters else module] = before.get(module) or known[*numbers, own_name]
    return modules, parameters


def _patterns_of(config: dict[str, Any], strengths: Strengths) -> dict[str, dict[str, float]]:
    """Say rank and alpha by whole names; where the settings had no patterns and all experts agree, by the parameter's name alone."""
    tables = pattern_tables(config, strengths, lambda name: name)
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return tables
    return {key: _by_endings(table, strengths) for key, table in tables.items()}


def _by_endings(table: Mapping[str, float], strengths: Strengths) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in table.items():
        ending = ".".join(name.split(".")[-2:])
        alike = {table.get(other) for other in strengths if other.endswith(f".{ending}")}
        found[ending if len(alike) == 1 else name] = value
    return found


def see_strengths(adapter: Path, config: dict[str, Any], strengths: Strengths, tree: ModuleTree, way_out: str = MERGE) -> None:
    """See that an adapter's settings say of each module and parameter what was meant.

    Raises:
        InputError: They do not.
    """
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    for name, pair in SavedAdapter.open(adapter, tree).pairs.items():
        r, scale = strengths.get(name, (0, 0.0))
        if r != pair.r or not math.isclose(scale, pair.scale, rel_tol=1e-12):
            raise _not_fused(f"rank and scale of {name} would be {pair.r} and {pair.scale:g}, not {r} and {scale:g}", way_out)


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


def _not_fused(why: str, way_out: str) -> InputError:
    message = f"The adapter is on single experts, as transformers 4 had them, and PEFT cannot carry it to this base's fused ones: {why}."
    return InputError(message, way_out, FIELD)
