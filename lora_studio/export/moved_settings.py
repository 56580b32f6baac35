"""An adapter's settings once its modules are called otherwise: what they mean of each module stays, whichever way they say it.

PEFT takes names in settings for endings or patterns, so a name that is whole may match nothing any more, in silence: rank and alpha would
be the common ones of the settings. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from os.path import commonpath
from pathlib import Path
from typing import Any

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.inference.adapters import ADAPTER_CONFIG

_MODULES = ("linear", "conv1d", "embedding")  # experts are parameters, and named as such
Strengths = Mapping[str, tuple[int, float]]
"""Rank and scale by module, as saved."""


def strengths_of(folder: Path, config: Mapping[str, Any]) -> Strengths:
    """Return what an adapter's settings mean for each of its modules, once they are written into its folder.

    Raises:
        InputError: Config and tensors contradict each other.
    """
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return {name: (pair.r, pair.scale) for name, pair in SavedAdapter.open(folder).pairs.items()}


def moved_settings(folder: Path, config: dict[str, Any], before: Strengths, names: Mapping[str, str], tree: ModuleTree) -> dict[str, Any]:
    """Bring an adapter's settings to new names of its modules.

    Args:
        folder: The adapter's, its tensors renamed already.
        config: Its settings, with the old names.
        before: What they meant; see `strengths_of`.
        names: New names of modules by the old ones.
        tree: The base model's.

    Raises:
        InputError: No settings under the new names mean the same.
    """
    wanted = {names.get(name, name): strength for name, strength in before.items()}
    modules = [name for name in sorted(wanted) if name in tree.by_name and tree.by_name[name].kind in _MODULES]
    changed = {
        **config,
        "target_modules": modules,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        **{key: _renamed(config.get(key), names) for key in ("target_parameters", "modules_to_save", "trainable_token_indices")},
        **{key: _renamed(config.get(key) or {}, names) for key in ("rank_pattern", "alpha_pattern")},
    }
    for settings in (changed, {**changed, **_patterns(changed, {name: wanted[name] for name in modules})}):
        with contextlib.suppress(InputError):  # ranks that are not those of the file
            if strengths_of(folder, settings) == wanted:
                return settings
    raise InputError(
        "The settings of rank and alpha cannot be brought to the names of the base's modules.",
        "Load the adapter in PEFT on the class it was trained in, and save it with whole names in rank_pattern and alpha_pattern.",
        "path",
    )


def _renamed(setting: Any, names: Mapping[str, str]) -> Any:
    """Rename what is a module's whole name, or a parameter's of one; endings and patterns stay."""
    if isinstance(setting, dict):
        return {_name(key, names): value for key, value in setting.items()}
    return [_name(entry, names) for entry in setting] if isinstance(setting, list) else setting


def _name(entry: str, names: Mapping[str, str]) -> str:
    plain = {old.replace(".base_layer", ""): new.replace(".base_layer", "") for old, new in names.items()}
    if entry in plain:
        return plain[entry]
    return next((given + entry.removeprefix(taken) for taken, given in _parents(plain) if taken and entry.startswith(taken)), entry)


def _parents(names: Mapping[str, str]) -> set[tuple[str, str]]:
    """Return what names began with and begin with now."""
    found: set[tuple[str, str]] = set()
    for old, new in names.items():
        shared = commonpath([old[::-1], new[::-1]])
        found.add((old[: len(old) - len(shared)], new[: len(new) - len(shared)]))
    return found


def _patterns(config: Mapping[str, Any], wanted: Strengths) -> dict[str, dict[str, float]]:
    """Say rank and alpha of each module by its whole name, where they are not the common ones."""
    rooted = bool(config.get("use_rslora"))
    ranks = {name: r for name, (r, _) in wanted.items() if r != config.get("r")}
    alphas = {name: scale * (r**0.5 if rooted else r) for name, (r, scale) in wanted.items()}
    return {
        "rank_pattern": {f"^{re.escape(name)}$": r for name, r in ranks.items()},
        "alpha_pattern": {f"^{re.escape(name)}$": alpha for name, alpha in alphas.items() if alpha != config.get("lora_alpha")},
    }
