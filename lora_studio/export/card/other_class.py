"""The other class that a base model's files can be loaded as, and what an adapter's modules are called there.

Files of a model with images name a class such as `Qwen3_5ForConditionalGeneration`, while `AutoModelForCausalLM`, in which adapters are
trained, makes the text part alone of them, under other names. PEFT puts an adapter with the names of one class into the other with a
warning and no effect. So what differs is found here, and the lines that load it there are written into card and certificate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.modules import ModuleTree
from lora_studio.export.class_trees import named_class, renamed, renames_to, tree_as

if TYPE_CHECKING:
    from lora_studio.adapters.saved_adapter import SavedAdapter


@dataclass(frozen=True)
class OtherClass:
    """What an adapter needs to be loaded into the class that the base's config names.

    Attributes:
        trained: The class the adapter's names are of.
        name: The class that the config names.
        renames: What names begin with in the one and in the other, each with its dot.
        targets: A regular expression for `target_modules` in the other class.
        settings: What else of the adapter's config names modules, with their names there: patterns of rank and alpha, parameters.
    """

    trained: str
    name: str
    renames: dict[str, str]
    targets: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def lines(self, base: str, folder: str, revision: str = "") -> str:
        """Return the lines of Python that load the adapter into the other class."""
        pinned = f", revision={revision!r}" if revision else ""
        mapping = {f"^{re.escape(before)}": after for before, after in self.renames.items()}
        return (
            "from peft import PeftConfig, PeftModel\n"
            f"from transformers import {self.name}\n\n"
            f"base = {self.name}.from_pretrained({base!r}{pinned})\n"
            f"config = PeftConfig.from_pretrained({folder!r})\n"
            f"config.target_modules = {self.targets!r}\n"
            + "".join(f"config.{name} = {value!r}\n" for name, value in self.settings.items())
            + "config.exclude_modules = config.layers_to_transform = None\n"
            f"model = PeftModel.from_pretrained(base, {folder!r}, config=config, key_mapping={mapping!r})\n"
        )

    def to_json(self, base: str, folder: str, revision: str = "") -> dict[str, Any]:
        """Return what certificate and card say of it."""
        return {"trained": self.trained, "other": self.name, "renames": dict(self.renames), "lines": self.lines(base, folder, revision)}


def other_class(base: Path, tree: ModuleTree, adapter: SavedAdapter) -> OtherClass | None:
    """Find the class that a base's config names where it is not the one adapters are trained in; None where nothing differs.

    Args:
        base: The base model's folder.
        tree: Its modules, of the class adapters are trained in.
        adapter: The adapter.
    """
    named = named_class(base)
    other = tree_as(base, named) if named != tree.architecture else None
    if other is None:
        return None
    renames = renames_to(tree, other)
    if not renames or all(before == after for before, after in renames.items()):
        return None
    modules = [name for name in adapter.pairs if tree.by_name[name].kind != "experts"]
    moved = [renamed(name, renames) for name in modules]
    changed = {before: after for before, after in renames.items() if before != after}
    return OtherClass(tree.architecture, named, changed, _expression(moved), _settings(adapter, renames, modules))


def _settings(adapter: SavedAdapter, renames: dict[str, str], modules: Iterable[str]) -> dict[str, Any]:
    """Return the settings that name modules, as they are in the other class: ranks and alphas by whole names, so that none is missed."""
    config, found = adapter.config, dict[str, Any]()
    pairs = {f"^{re.escape(renamed(name, renames))}$": adapter.pairs[name] for name in modules}
    if config.get("rank_pattern"):
        found["rank_pattern"] = {name: pair.r for name, pair in pairs.items() if pair.r != config.get("r")}
    if config.get("alpha_pattern"):
        alphas = {name: pair.scale * (pair.r**0.5 if config.get("use_rslora") else pair.r) for name, pair in pairs.items()}
        found["alpha_pattern"] = {name: alpha for name, alpha in alphas.items() if alpha != config.get("lora_alpha")}
    if config.get("target_parameters"):
        found["target_parameters"] = [renamed(name, renames) for name in config["target_parameters"]]
    return found


def _expression(names: Iterable[str]) -> str:
    """Return a regular expression that fully matches exactly these names, those of many layers put together."""
    layers: dict[tuple[str, str], list[str]] = {}
    for name in names:
        parts = name.split(".")
        at = next((place for place, part in enumerate(parts) if part.isdecimal()), len(parts))
        layers.setdefault((".".join(parts[:at]), ".".join(parts[at + 1 :])), []).extend(parts[at : at + 1])
    tails: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (stack, tail), numbers in layers.items():
        tails.setdefault((stack, tuple(numbers)), []).append(tail)
    return "|".join(_stack_expression(stack, numbers, ends) for (stack, numbers), ends in tails.items())


def _stack_expression(stack: str, numbers: tuple[str, ...], tails: list[str]) -> str:
    if not numbers:
        return re.escape(stack)
    return rf"{re.escape(stack)}\.({'|'.join(numbers)})\.({'|'.join(map(re.escape, tails))})"
