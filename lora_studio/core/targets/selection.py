"""A selection: what is ticked in the tree, and the ranks and alphas given to single modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets.index import index_of
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
        """Return the selection with `names` ticked or unticked; overrides are kept."""
        return Selection(self.modules | names if ticked else self.modules - names, self.ranks, self.alphas)


def selection_of(resolution: Resolution) -> Selection:
    """Return the ticks and overrides that settings come to."""
    r, alpha = resolution.adapter.r, resolution.adapter.lora_alpha
    return Selection(
        frozenset(target.name for target in resolution.targets),
        {target.name: target.r for target in resolution.targets if target.r != r},
        {target.name: target.lora_alpha for target in resolution.targets if target.lora_alpha != alpha},
    )


def targetable_below(name: str, tree: ModuleTree) -> frozenset[str]:
    """Return every module at or below `name` that can have an adapter: what a tick on that row means. The root is ""."""
    targetable = index_of(tree).targetable
    if not name:
        return targetable
    found: list[str] = []
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here in targetable:
            found.append(here)
        waiting.extend(module.name for module in tree.children.get(here, ()))
    return frozenset(found)
