"""Adapters made with another class of the same checkpoint: their names brought to the class that is used here, each by what it is.

A class for text has the text part of one with images, under other names. What an adapter changed of the part for images has no place
there: it is refused by name, or, where a person wants the text part alone, left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.adapters.saved_adapter import PREFIX
from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.export.class_trees import moved, other_trees, renames_to
from lora_studio.export.imports.foreign_keys import module_of
from lora_studio.export.merge.renamed_tensors import Renamed, write_renamed
from lora_studio.export.moved_settings import moved_settings, strengths_of
from lora_studio.inference.adapters import ADAPTER_WEIGHTS
from lora_studio.models.safetensors_header import read_header

FIELD = "text_only"
_SEPARATE_EXPERT = re.compile(r"(?<=\.experts)\.\d+\..+")


@dataclass(frozen=True)
class _OtherClass:
    """The class that an adapter was made with.

    Attributes:
        name: It.
        place_of: What a module of it is called in the class that is used here; None where it is not there.
    """

    name: str
    place_of: Callable[[str], str | None]


def fit_class(
    adapter: Path, base: Path, config: dict[str, Any], tree: ModuleTree, *, text_only: bool
) -> tuple[dict[str, Any], list[Finding]]:
    """Bring an adapter's names to those of the base's class, where they are those of another class of its files.

    Args:
        adapter: The adapter's folder, its names PEFT's.
        base: The base model's folder.
        config: The adapter's settings.
        tree: The base's modules, of the class that is used here.
        text_only: Whether to leave out what is not in that class.

    Returns:
        The settings under the new names, and what to tell.

    Raises:
        InputError: It changes modules that the class used here does not have.
    """
    tensors = list(read_header(adapter / ADAPTER_WEIGHTS).tensors)
    modules = {module_of(name) for name in tensors}
    made_with = None if _are_of(tree, modules) else _made_with(base, tree, modules)
    if made_with is None:
        return config, []
    places = {module: made_with.place_of(module) for module in sorted(modules)}
    left = [module for module, place in places.items() if place is None]
    _refuse_left(left, len(places), made_with.name, tree.architecture, text_only=text_only)
    kept = {module: place for module, place in places.items() if place is not None}
    _write(adapter, {name: PREFIX + name.removeprefix(PREFIX) for name in tensors if module_of(name) in kept})
    before = strengths_of(adapter, _without(config, left, kept))
    _write(adapter, {name: _renamed(name, kept) for name in tensors if module_of(name) in kept})
    settings = moved_settings(adapter, _without(config, left, kept), before, kept, tree)
    return settings, _told(made_with.name, tree.architecture, kept, left)


def _are_of(tree: ModuleTree, modules: Collection[str]) -> bool:
    return all(_SEPARATE_EXPERT.sub("", module.replace(".base_layer", "")) in tree.by_name for module in modules)


def _made_with(base: Path, tree: ModuleTree, modules: Collection[str]) -> _OtherClass | None:
    """Find the class that has all of these modules, and what they are called in the one that is used."""
    for other in other_trees(base, tree):
        if not _are_of(other, modules):
            continue
        there = renames_to(other, tree) or {after: before for before, after in renames_to(tree, other).items()}
        if there:
            return _OtherClass(other.architecture, lambda name, there=there: moved(name, there))
    return None


def _refuse_left(left: list[str], count: int, made_with: str, used: str, *, text_only: bool) -> None:
    if not left or (text_only and len(left) < count):
        return
    more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
    message = f"It was made with {made_with} and changes modules that are not in {used}, which is used here: {left[0]}{more}."
    if len(left) == count:
        raise InputError(message, "It changes nothing of the text part: use it with the class that it was made with.", "path")
    raise InputError(message, "Import its text part alone, without these: --text-only.", FIELD)


def _without(config: dict[str, Any], left: Collection[str], kept: Collection[str]) -> dict[str, Any]:
    """Return settings that save in full no module that was left out."""
    saved: list[str] | None = config.get("modules_to_save")
    if not left or not saved:
        return config
    still = [entry for entry in saved if any(f".{module}".endswith(f".{entry}") for module in kept)]
    return {**config, "modules_to_save": still or None}


def _renamed(name: str, places: dict[str, str]) -> str:
    module = module_of(name)
    return PREFIX + places[module] + name.removeprefix(PREFIX).removeprefix(module)


def _write(adapter: Path, names: dict[str, str]) -> None:
    """Write an adapter's file anew: of the tensors that are named, under their new names."""
    path = adapter / ADAPTER_WEIGHTS
    if set(read_header(path).tensors) == set(names) == set(names.values()):
        return
    beside = path.with_suffix(".renamed")
    stored = read_header(path).tensors
    write_renamed(path, beside, (Renamed(new, old) for old, new in names.items() if old in stored))
    beside.replace(path)


def _told(made_with: str, used: str, kept: dict[str, str], left: list[str]) -> list[Finding]:
    old, new = next((pair for pair in kept.items() if pair[0] != pair[1]), ("", ""))
    names = f"its names are those of {used} now, which is used here: {old} is {new}" if old else f"its names are the same in {used}"
    found = [Finding("note", "other_class", f"It was made with {made_with}; {names}.", "", "path")]
    if left:
        message = f"{len(left):,} modules that are not in {used} were left out, such as {left[0]}: it acts on text alone."
        found.append(Finding("warning", "text_only", message, f"For images use it as it was, with {made_with}.", "path"))
    return found
