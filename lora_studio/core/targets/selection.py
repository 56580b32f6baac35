"""A selection: what is ticked in the tree, and the ranks and alphas given to single modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.fused import rewritten_name, rewritten_names
from lora_studio.core.targets.resolve import Resolution


@dataclass(frozen=True)
class Selection:
    """What is to get an adapter.

    Attributes:
        modules: Names of modules and parameters, as in the tree.
        ranks: Ranks that differ from the config's `r`, by name; names that are not in `modules` are passed over.
        alphas: Alphas that differ from the config's `lora_alpha`, likewise.
    """

    modules: frozenset[str] = frozenset()
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    alphas: Mapping[str, float] = field(default_factory=dict[str, float])

    def toggled(self, names: frozenset[str], ticked: bool) -> Selection:
        """Give the selection with `names` ticked or unticked; overrides are kept."""
        return Selection(self.modules | names if ticked else self.modules - names, self.ranks, self.alphas)


def selection_of(resolution: Resolution) -> Selection:
    """Give the ticks and overrides that settings come to."""
    r, alpha = resolution.adapter.r, resolution.adapter.lora_alpha
    return Selection(
        frozenset(target.name for target in resolution.targets),
        {target.name: target.r for target in resolution.targets if target.r != r},
        {target.name: target.lora_alpha for target in resolution.targets if target.lora_alpha != alpha},
    )


def targetable_reason(module: ModuleInfo, tree: ModuleTree) -> str:
    """Say why a module can have no adapter; empty where it can."""
    if not module.targetable:
        return module.reason or f"a {module.class_name} has no adapter"
    if module.kind == "experts":
        return ""
    old = rewritten_name(module.name, rewritten_names(tree.model_type))
    return f"PEFT reads {old} as the fused experts in a {tree.model_type} model" if old else ""


def targetable_below(name: str, tree: ModuleTree) -> frozenset[str]:
    """Give every module at or below `name` that can have an adapter: what a tick on that row means. The root is ""."""
    found: list[str] = []
    waiting = [tree.by_name[name]]
    while waiting:
        module = waiting.pop()
        if not targetable_reason(module, tree):
            found.append(module.name)
        waiting.extend(tree.children.get(module.name, ()))
    return frozenset(found)
