"""An `adapter_config.json` that nobody vouches for, looked at before PEFT obeys it. No torch here.

PEFT 0.21 imports modules that a config names (`auto_mapping`, `megatron_core`), matches names with its patterns, and copies layers
as often as `layer_replication` says. Whatever could run code, hang or fill the memory is refused or written in another way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.inference.adapters import ADAPTER_CONFIG

_MOST_BYTES = 1_000_000
_MOST_DEPTH = 12
_MOST_NAMES = 20_000
_MOST_TOKENS = 500_000
_LONGEST = 2_000
_LARGEST_RANK = 16_384
_KNOWN = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
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
        "megatron_config",
        "megatron_core",
        "trainable_token_indices",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "use_dora",
        "velora_config",
        "alora_invocation_tokens",
        "use_qalora",
        "qalora_group_size",
        "monteclora_config",
        "layer_replication",
        "runtime_config",
        "lora_bias",
        "target_parameters",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
        "ensure_weight_tying",
    }
)
_INITS = re.compile(r"gaussian|eva|olora|pissa|pissa_niter_\d{1,4}|corda|loftq|orthogonal|mica|lora_ga")
_CHANGES_BASE = re.compile(r"olora|pissa|pissa_niter_\d+|corda|loftq|lora_ga")
_VARIANTS = ("alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config")
_FLAGS = ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying")
_QUANTIFIED_GROUP = re.compile(r"\)[*+{?]")
_QUANTIFIER = re.compile(r"(?<!\()[*+?]|\{\d")
_MOST_QUANTIFIERS = 2
_MOST_GROUPS = 100  # Python's compiler of patterns goes a call deeper for each that stands in another
FIELD = "path"
_TRUST = "Take the adapter from a source you trust, or mend its adapter_config.json."


def read_foreign_config(folder: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Read an adapter's config, having seen that it can be obeyed, and say what else there is to know of it.

    Raises:
        InputError: It is no LoRA's, malformed, or asks for what is not done for it.
    """
    path = folder / ADAPTER_CONFIG
    config = _read(path)
    if config.get("peft_type") != "LORA":
        shown = repr(config.get("peft_type"))[:60]
        raise InputError(f"{path.name}: peft_type is {shown}; only LORA is read here.", "Give a LoRA adapter.", FIELD)
    _refuse_code(config)
    for key, (is_sound, wanted) in _RULES.items():
        if config.get(key) is not None and not is_sound(config[key]):
            raise _wrong(key, config[key], wanted)
    if config.get("r") is None or (config.get("target_modules") is None and not config.get("target_parameters")):
        raise InputError(f"{path.name} names no {'r' if config.get('r') is None else 'target_modules'}.", _TRUST, FIELD)
    return config, _findings(config)


def replace_patterns(config: dict[str, Any], modules: Iterable[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Return a config that PEFT matches quickly: a long pattern of target modules becomes the names that the weights are of.

    Args:
        config: As `read_foreign_config` gives it.
        modules: Names, in the base model, of the modules with A and B in the file.

    Raises:
        InputError: A pattern for ranks or alphas could take for ever.
    """
    for key in ("rank_pattern", "alpha_pattern"):
        slow = next((pattern for pattern in config.get(key) or {} if not is_quick(pattern)), None)
        if slow is not None:
            raise InputError(f"{ADAPTER_CONFIG}: a pattern of {key} could take for ever to match: {slow[:80]!r}.", _TRUST, FIELD)
    patterns = [config.get("target_modules"), config.get("exclude_modules"), config.get("layers_pattern")]
    if all(is_quick(pattern) for pattern in patterns if isinstance(pattern, str)):
        return config, []
    changes = {"target_modules": sorted(modules), "exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    message = "Its pattern of target modules could take long to match; the names of the modules in its file stand in its place."
    return {**config, **changes}, [Finding("note", "pattern_replaced", message, "", FIELD)]


def is_quick(pattern: str) -> bool:
    """Return whether matching a regular expression against a module's name ends soon: few repetitions, none of a group, few groups."""
    if pattern.count("(") > _MOST_GROUPS or _QUANTIFIED_GROUP.search(pattern) or len(_QUANTIFIER.findall(pattern)) > _MOST_QUANTIFIERS:
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path.name} has {path.stat().st_size:,} bytes, more than such a file needs.", _TRUST, FIELD)
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(":")[0] if isinstance(error, ValueError) else "it is nested too deeply"
        raise InputError(f"{path.name} is not valid JSON: {reason}.", "Download or copy the adapter again.", FIELD) from error
    if not isinstance(raw, dict):
        raise InputError(f"{path.name} is not a table of settings.", _TRUST, FIELD)
    if _depth_exceeds(raw, _MOST_DEPTH):
        raise InputError(f"{path.name} is nested more than {_MOST_DEPTH} deep.", _TRUST, FIELD)
    return raw


def _depth_exceeds(value: Any, most: int) -> bool:
    below: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return most < 0 or any(_depth_exceeds(entry, most - 1) for entry in below)


def _refuse_code(config: dict[str, Any]) -> None:
    """Refuse settings by which PEFT imports a module, or builds another base than the one given."""
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    is_known = library is None or (isinstance(library, str) and re.fullmatch(r"(transformers|peft)(\.\w+)*", library))
    if mapping is not None and not (isinstance(mapping, dict) and is_known):
        raise InputError(f"{ADAPTER_CONFIG} asks for code of its own (auto_mapping: {str(mapping)[:80]}).", _TRUST, FIELD)
    if config.get("megatron_config"):
        raise InputError(f"{ADAPTER_CONFIG} asks for code of its own (megatron_config).", _TRUST, FIELD)
    if config.get("layer_replication"):
        hint = "Merge it where it was made, then import the merged model."
        raise InputError(f"{ADAPTER_CONFIG} makes another base model out of copies of layers (layer_replication).", hint, FIELD)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST and value.isprintable()


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_NAMES and all(_is_text(name) for name in value)


def _is_names_or_pattern(value: Any) -> bool:
    return _is_names(value) or _is_text(value)


def _is_init(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and _INITS.fullmatch(value) is not None)


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_RANK


def _is_alpha(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= 1e6


def _is_table(value: Any, is_sound: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and len(value) <= _MOST_NAMES and all(_is_text(key) and is_sound(value[key]) for key in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_TOKENS and all(type(number) is int and number >= 0 for number in value)


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, f"a whole number from 1 to {_LARGEST_RANK}"),
    "lora_alpha": (_is_alpha, "a number"),
    "lora_dropout": (lambda value: _is_alpha(value) and 0 <= value <= 1, "a share from 0 to 1"),
    "target_modules": (_is_names_or_pattern, "names of modules, or a pattern"),
    "exclude_modules": (_is_names_or_pattern, "names of modules, or a pattern"),
    "layers_pattern": (_is_names_or_pattern, "names, or a pattern"),
    "modules_to_save": (_is_names, "names of modules"),
    "target_parameters": (_is_names, "names of parameters"),
    "rank_pattern": (lambda value: _is_table(value, _is_rank), "ranks by name"),
    "alpha_pattern": (lambda value: _is_table(value, _is_alpha), "numbers by name"),
    "layers_to_transform": (lambda value: _is_numbers(value) or type(value) is int, "numbers of layers"),
    "trainable_token_indices": (lambda value: _is_numbers(value) or _is_table(value, _is_numbers), "token ids"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    "init_lora_weights": (_is_init, "a way to begin that PEFT has"),
    "base_model_name_or_path": (_is_text, "the name of a model"),
    "revision": (_is_text, "a branch, tag or commit"),
    **{flag: (lambda value: isinstance(value, bool), "true or false") for flag in _FLAGS},
}


def _findings(config: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    unknown = sorted(repr(key)[:60] for key in config.keys() - _KNOWN)
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        message = f"Its config has settings that are not known here and not obeyed: {shown}."
        found.append(Finding("warning", "unknown_settings", message, "A newer PEFT may have made it: compare its answers.", FIELD))
    variants = [key for key in _VARIANTS if config.get(key)]
    if variants:
        message = f"It is a variant of LoRA that is exported as it is, and not merged here ({', '.join(variants)})."
        found.append(Finding("warning", "variant", message, "", FIELD))
    init = config.get("init_lora_weights")
    if isinstance(init, str) and _CHANGES_BASE.fullmatch(init):
        message = f"It began as {init}, which changes the base model's weights: on the base as it is it may act otherwise."
        hint = "Save it as a plain LoRA where it was made: save_pretrained(path_initial_model_for_weight_conversion=…)."
        found.append(Finding("warning", "changed_base", message, hint, FIELD))
    return found


def _wrong(key: str, value: Any, wanted: str) -> InputError:
    shown = f"a list of {len(value):,}" if isinstance(value, list) and len(value) > 8 else repr(value)[:80]
    return InputError(f"{ADAPTER_CONFIG}: {key} is {shown}, not {wanted}.", _TRUST, FIELD)
