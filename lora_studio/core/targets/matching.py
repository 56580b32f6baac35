"""PEFT 0.21's rules for matching a list of names against a model, on names alone.

Source: `check_target_module_exists` and `_find_minimal_target_modules` in `peft.tuners.tuners_utils`.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.index import index_of

# From this many entries on, PEFT replaces a list by shorter names that match the same modules.
PEFT_SHORTENS_FROM = 20


def names_matching(entry: str, tree: ModuleTree) -> frozenset[str]:
    """Return the names of modules that are `entry` or end in a dot and `entry`; parameters are no modules."""
    leaf = entry.rpartition(".")[2]
    names = index_of(tree).modules_by_leaf.get(leaf, frozenset[str]())
    if leaf == entry:
        return names
    ending = f".{entry}"
    return frozenset(name for name in names if name == entry or name.endswith(ending))


def parameters_matching(entry: str, tree: ModuleTree) -> list[ModuleInfo]:
    """Return the fused parameters whose name is `entry` or ends in a dot and `entry`."""
    ending = f".{entry}"
    return [
        module
        for module in tree.by_leaf_name.get(entry.rpartition(".")[2], ())
        if module.kind == "experts" and (module.name == entry or module.name.endswith(ending))
    ]


def plain_parameters(leaf: str, tree: ModuleTree) -> list[str]:
    """Name every `weight` or `bias` that is no row of the tree itself; PEFT matches those in `target_parameters` too."""
    if leaf not in ("weight", "bias"):
        return []
    owners = (module for module in tree.modules if module.kind != "experts" and (module.shape if leaf == "weight" else module.has_bias))
    return [name for name in (f"{module.name}.{leaf}" for module in owners) if name not in tree.by_name]


def owner_of_plain_parameter(entry: str, tree: ModuleTree) -> str | None:
    """Name a module whose plain weight or bias an entry of `target_parameters` takes; None when it takes none."""
    ending = f".{entry}"
    taken = (name for name in plain_parameters(entry.rpartition(".")[2], tree) if name == entry or name.endswith(ending))
    return next((name.rpartition(".")[0] for name in taken), None)


def has_names_within_names(tree: ModuleTree) -> bool:
    """Return whether the first part of names is also a later part of some, so that one name may be the ending of another."""
    return any(len(tree.by_leaf_name[top.name]) > 1 for top in tree.children.get("", ()))


def matching_names(entries: Iterable[str], tree: ModuleTree) -> set[str]:
    """Return the names of modules that some entry matches."""
    return set[str]().union(*(names_matching(entry, tree) for entry in entries))


def layer_of(name: str) -> int | None:
    """Return the layer a module belongs to as `layers_to_transform` counts them, or None.

    It is the first number among the parts of the name that has two parts before it and one behind.
    """
    parts = name.split(".")
    return next((int(part) for part in parts[2:-1] if part.isdecimal()), None)


def within_layers(names: set[str], entries: frozenset[str], layers: tuple[int, ...], tree: ModuleTree) -> set[str]:
    """Keep of the matched `names` those in `layers`; a complete name among the entries is taken whatever its layer."""
    exact = shortened(entries, tree) if len(entries) >= PEFT_SHORTENS_FROM else entries
    return {name for name in names if name in exact or layer_of(name) in layers}


def shortened(entries: frozenset[str], tree: ModuleTree) -> frozenset[str]:
    """Return the shorter list PEFT puts in place of a long one; the same modules end in its entries."""
    matched = matching_names(entries, tree)
    unmatched = (module.name for module in tree.modules if module.kind != "experts" and module.name not in matched)
    other = {suffix for name in unmatched for suffix in suffixes(name)}
    needed: set[str] = set()
    for _, choices in sorted((suffixes(entry), entry) for entry in entries):
        found = _shortest_new(choices, needed, other)
        if found:
            needed.add(found)
    return frozenset(needed) if needed and len(needed) < len(entries) else entries


def _shortest_new(entry: str, needed: set[str], other: set[str]) -> str | None:
    parts = suffixes(entry)
    if any(suffix in needed for suffix in parts[:-1]):
        return None
    return next((suffix for suffix in parts if suffix not in needed and suffix not in other), None)


def endings_of(names: Iterable[str], others: AbstractSet[str], tree: ModuleTree) -> list[str]:
    """Return endings that match all of `names` and none of `others`: for each the shortest, a name itself where there is none."""
    found: list[str] = []
    done = set[str]()
    for name in names:
        if name in done:
            continue
        ending = next((suffix for suffix in suffixes(name) if not names_matching(suffix, tree) & others), name)
        found.append(ending)
        done |= names_matching(ending, tree)
    return found


def suffixes(name: str) -> list[str]:
    """Return every ending of a name at a dot, the shortest first, the name itself last."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]
