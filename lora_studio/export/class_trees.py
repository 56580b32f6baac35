"""The classes of transformers that one checkpoint can be loaded as, and what a module is called in one and in the other.

The files of a model with images are made into its own class, such as `Qwen3_5ForConditionalGeneration`, or, by `AutoModelForCausalLM` or
from the text model's config, into the text part alone, under other names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.models.check import read_model_config
from lora_studio.models.inspect import load_config, tree_of


def named_class(base: Path) -> str:
    """Return the class that a base's config names; empty where it names none."""
    named: Any = (read_model_config(base).get("architectures") or [""])[0]
    return named if isinstance(named, str) else ""


def tree_as(base: Path, name: str) -> ModuleTree | None:
    """Describe a base's modules as a class of transformers makes them; None where it cannot."""
    import transformers

    made: Any = getattr(transformers, name, None)
    if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
        return None
    return _tree(lambda: made(load_config(base)))


def other_trees(base: Path, tree: ModuleTree) -> Iterator[ModuleTree]:
    """Describe a base's modules in every other class that its files can be loaded as: its own, that with images, that of its text model.

    Args:
        base: The base model's folder.
        tree: Its modules, of the class adapters are trained in.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    seen = {tree.architecture}
    makers: list[Callable[[], Any]] = [
        lambda: AutoModelForImageTextToText.from_config(load_config(base)),
        lambda: AutoModelForCausalLM.from_config(load_config(base)),
        lambda: AutoModelForCausalLM.from_config(load_config(base).get_text_config(decoder=True)),
    ]
    for found in (tree_as(base, named_class(base)), *(_tree(maker) for maker in makers)):
        if found is not None and found.architecture not in seen:
            seen.add(found.architecture)
            yield found


def _tree(maker: Callable[[], Any]) -> ModuleTree | None:
    import torch

    try:
        with torch.device("meta"):
            model = maker()
        model.tie_weights()
        return tree_of(model)
    except Exception:  # a config that another class cannot be made of: then there is no other class to tell of
        return None


def renames_to(tree: ModuleTree, other: ModuleTree) -> dict[str, str]:
    """Return for each module at the top of one tree what its name is in the other, both with their dot; empty where something has none."""
    found: dict[str, str] = {}
    for top in tree.children.get("", ()):
        below = [module for module in tree.modules if module.name.startswith(f"{top.name}.") and module.shape]
        if not below:  # a head is in place of all that is below it
            place = next((module for module in other.modules if _is_like(top, module)), None)
            found |= {top.name: place.name} if place and top.shape else {}
            continue
        place = next((at.name for at in other.modules if all(_is_there(module, top.name, at.name, other) for module in below)), None)
        if place is None:
            return {}
        found[f"{top.name}."] = f"{place}." if place else ""
    return found


def renamed(name: str, renames: dict[str, str]) -> str:
    """Return a module's name after renaming; see `renames_to`."""
    return moved(name, renames) or name


def moved(name: str, renames: dict[str, str]) -> str | None:
    """Return a module's name after renaming; None where nothing is said of it."""
    for before, after in sorted(renames.items(), key=lambda pair: -len(pair[0])):
        if name == before or ((not before or before.endswith(".")) and name.startswith(before)):
            return after + name.removeprefix(before)
    return None


def _is_like(top: ModuleInfo, module: ModuleInfo) -> bool:
    return module.leaf_name == top.name and module.shape == top.shape


def _is_there(module: ModuleInfo, top: str, place: str, other: ModuleTree) -> bool:
    tail = module.name.removeprefix(f"{top}.")
    found = other.by_name.get(f"{place}.{tail}" if place else tail)
    return found is not None and found.shape == module.shape
