"""How far targets reach: in how many of a model's layers they are, and whether a gradient comes to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets.index import index_of

_FIELD = "adapter.target_modules"
_FEW = 2  # in fewer than one layer of so many
_NAMED = 6


def reach_findings(adapter: AdapterSettings, tree: ModuleTree, targets: Sequence[str], saved: Sequence[str]) -> Iterator[Finding]:
    """Say where targets reach few layers though names were meant for all, and where an adapter would learn nothing.

    Args:
        adapter: The settings as a person gave them.
        tree: The model's modules.
        targets: Names of what gets an adapter.
        saved: Names of what is trained in full.
    """
    yield from _idle_findings(tree, targets, saved)
    if targets and not adapter.layers_to_transform and not _names_layers(adapter):
        yield from _layer_findings(tree, targets)


def _idle_findings(tree: ModuleTree, targets: Sequence[str], saved: Sequence[str]) -> Iterator[Finding]:
    by_reason: dict[str, list[str]] = {}
    for name in targets:
        if tree.by_name[name].idle:
            by_reason.setdefault(tree.by_name[name].idle, []).append(name)
    if not by_reason:
        return
    idle = sum(map(len, by_reason.values()))
    if idle == len(targets) and not saved:
        reason, names = next(iter(by_reason.items()))
        yield Finding(
            "error",
            "nothing_learns",
            f"No gradient comes to any targeted module, {names[0]} for one: {reason}.",
            "Tick others; the presets leave out what learns nothing.",
            _FIELD,
        )
        return
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Finding(
            "warning",
            "no_gradient",
            f"{names[0]}{others} of {len(targets)} targeted modules would learn nothing: {reason}.",
            "They only add to the adapter's size. Untick them.",
            _FIELD,
        )


def _names_layers(adapter: AdapterSettings) -> bool:
    """Return whether settings choose layers themselves, by numbers in names or by leaving names out."""
    listed = () if isinstance(adapter.target_modules, str) else adapter.target_modules
    entries = (*listed, *adapter.target_parameters, *adapter.exclude_modules)
    return any(part.isdecimal() for entry in entries for part in entry.split("."))


def _layer_findings(tree: ModuleTree, targets: Sequence[str]) -> Iterator[Finding]:
    index = index_of(tree)
    for stack, layers in index.layers_of(targets).items():
        every = index.useful_layers.get(stack, frozenset[int]())
        left = sorted(every - layers)
        if not left or len(layers) * _FEW >= len(every):
            continue
        there = f"{stack}.{left[0]}."
        leaves = dict.fromkeys(
            module.leaf_name
            for module in tree.modules
            if module.name.startswith(there) and module.name in index.linear & index.targetable and not module.idle
        )
        yield Finding(
            "warning",
            "few_layers",
            f"The targets are in {len(layers)} of {len(every)} layers: the others have no module of these names.",
            f"{there[:-1]} has {', '.join(list(leaves)[:_NAMED])}. Add some, or take all-linear." if leaves else "",
            _FIELD,
        )
