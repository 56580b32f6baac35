"""An adapter's settings once its modules are called otherwise: what they mean of each module stays, whichever way they say it.

PEFT takes names in settings for endings or patterns, so a name that is whole may match nothing any more, in silence: rank and alpha would
be the common ones of the settings. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping
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


def strengths_of(folder: Path, config: Mapping[str, Any], tree: ModuleTree | None = None) -> Strengths:
    """Return what an adapter's settings mean for each of its modules, once they are written into its folder.

    Args:
        folder: The adapter's.
        config: Its settings.
        tree: The base model's: with it what is on parameters goes by their names, else by their modules' as saved.

    Raises:
        InputError: Config and tensors contradict each other.
    """
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return {name: (pair.r, pair.scale) for name, pair in SavedAdapter.open(folder, tree).pairs.items()}


def renamed(strengths: Strengths, names: Mapping[str, str]) -> Strengths:
    """Return rank and scale by the new names of modules and of what lies in them."""
    return {names.get(name) or _name(name, names): strength for name, strength in strengths.items()}


def moved_settings(
    folder: Path,
    config: dict[str, Any],
    before: Strengths,
    names: Mapping[str, str],
    tree: ModuleTree,
    *,
    on_parameters: bool = False,
) -> dict[str, Any]:
    """Bring an adapter's settings to new names of its modules.

    Args:
        folder: The adapter's, its tensors renamed already.
        config: Its settings, with the old names.
        before: What they meant; see `strengths_of`.
        names: New names of modules by the old ones.
        tree: The base model's.
        on_parameters: Whether `before` names parameters, not the modules as saved that stand for them.

    Raises:
        InputError: No settings under the new names mean the same.
    """
    wanted = renamed(before, names)
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
    for settings in (changed, {**changed, **pattern_tables(changed, {name: wanted[name] for name in modules})}):
        with contextlib.suppress(InputError):  # ranks that are not those of the file
            if strengths_of(folder, settings, tree if on_parameters else None) == wanted:
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


def pattern_tables(
    config: Mapping[str, Any], wanted: Strengths, key: Callable[[str], str] = lambda name: f"^{re.escape(name)}$"
) -> dict[str, dict[str, float]]:
    """Return `rank_pattern` and `alpha_pattern` that say rank and scale of each module by its whole name, where not the common ones.

    Args:
        config: The adapter's settings: `r`, `lora_alpha` and `use_rslora`.
        wanted: What each module is to have.
        key: How a name is written as a pattern.
    """
    rooted = bool(config.get("use_rslora"))
    ranks = {name: r for name, (r, _) in wanted.items() if r != config.get("r")}
    alphas = {name: _whole(scale * (r**0.5 if rooted else r)) for name, (r, scale) in wanted.items()}
    return {
        "rank_pattern": {key(name): r for name, r in ranks.items()},
        "alpha_pattern": {key(name): alpha for name, alpha in alphas.items() if alpha != config.get("lora_alpha")},
    }


def _whole(alpha: float) -> float:
    """Return an alpha that a product of roots missed by a rounding as the whole number it is."""
    nearest = round(alpha)
    return nearest if nearest > 0 and math.isclose(alpha, nearest, rel_tol=1e-14) else alpha
