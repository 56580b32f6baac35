"""From modules to settings: the smallest settings that PEFT 0.21 reads as exactly a selection.

What "smallest" counts. The size of settings is the number of entries in target_modules (all-linear is one), target_parameters
and exclude_modules, one more when layers_to_transform is set, however many layers it names, and the keys of rank_pattern and
alpha_pattern. Of settings with as many entries, those with fewer characters (digits, for layers) are smaller; of those, a list
comes before all-linear and no layers before layers.

What may be used. Entries are endings of the model's names. A complete name, which PEFT takes whatever layers_to_transform says,
is not used to reach beyond the layers: from 20 entries on PEFT shortens names itself, and the meaning would change. Keys of
patterns are escaped endings of which none matches a target that another matches, so the order PEFT saves them in means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.core.targets.cover import Cost, Member, Wish, cheapest_cover, cheapest_exclusion, uniform_endings
from lora_studio.core.targets.fused import rewritten_names
from lora_studio.core.targets.index import index_of, targetable_reason
from lora_studio.core.targets.matching import has_names_within_names, layer_of, matching_names, plain_parameters
from lora_studio.core.targets.selection import Selection


@dataclass(frozen=True)
class CompiledTargets:
    """The settings a selection compiles to; names as in `AdapterSettings`."""

    target_modules: tuple[str, ...] | Literal["all-linear"] = ()
    target_parameters: tuple[str, ...] = ()
    exclude_modules: tuple[str, ...] = ()
    layers_to_transform: tuple[int, ...] | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: Mapping[str, int | float] = field(default_factory=dict[str, "int | float"])

    @property
    def size(self) -> Cost:
        """What "smallest" counts."""
        listed = ("all-linear",) if self.target_modules == "all-linear" else self.target_modules
        texts = [*listed, *self.target_parameters, *self.exclude_modules, *self.rank_pattern, *self.alpha_pattern]
        layers = self.layers_to_transform
        digits = sum(len(str(layer)) for layer in layers or ())
        return Cost(len(texts) + (layers is not None), sum(map(len, texts)) + digits)

    def changes(self) -> dict[str, object]:
        """Return the settings as `{dotted path: value}`, for `RunConfig.replace`."""
        return {
            "adapter.target_modules": self.target_modules,
            "adapter.target_parameters": self.target_parameters,
            "adapter.exclude_modules": self.exclude_modules,
            "adapter.layers_to_transform": self.layers_to_transform,
            "adapter.rank_pattern": dict(self.rank_pattern),
            "adapter.alpha_pattern": dict(self.alpha_pattern),
        }


def compile_selection(selection: Selection, tree: ModuleTree, r: int, lora_alpha: float) -> CompiledTargets:
    """Return the smallest settings that mean the selection, with `r` and `lora_alpha` the config's own.

    Raises:
        InputError: A name is not in the tree, or cannot have an adapter, or no settings can tell it from another module.
    """
    _check_selection(selection, tree)
    parameters = selection.modules & index_of(tree).parameters
    reached = _cheapest_modules(selection.modules - parameters, tree)
    patterns = compile_patterns(selection, r, lora_alpha)
    return CompiledTargets(
        reached.target_modules,
        _cheapest_parameters(parameters, tree),
        reached.exclude_modules,
        reached.layers_to_transform,
        patterns.rank_pattern,
        patterns.alpha_pattern,
    )


def compile_patterns(selection: Selection, r: int, lora_alpha: float) -> CompiledTargets:
    """Return `rank_pattern` and `alpha_pattern` alone: the fewest escaped keys that share no module."""
    leaves = {name.rpartition(".")[2] for name in (*selection.ranks, *selection.alphas)}
    names = [name for name in selection.modules if name.rpartition(".")[2] in leaves] if leaves else []
    ranks = {name: selection.ranks.get(name, r) for name in names}
    alphas = {name: float(selection.alphas.get(name, lora_alpha)) for name in names}
    return CompiledTargets(
        rank_pattern={_escaped(ending): ranks[name] for ending, name in _ordered(uniform_endings(ranks, r))},
        alpha_pattern={_escaped(ending): _plain(alphas[name]) for ending, name in _ordered(uniform_endings(alphas, float(lora_alpha)))},
    )


def _check_selection(selection: Selection, tree: ModuleTree) -> None:
    for name in sorted(selection.modules - index_of(tree).targetable):
        module = tree.by_name.get(name)
        reason = "the model has no such module" if module is None else targetable_reason(module, tree)
        raise InputError(f"{name} cannot be targeted: {reason}.", "Untick it.", "adapter.target_modules")


def _cheapest_modules(wanted: frozenset[str], tree: ModuleTree) -> CompiledTargets:
    """Choose between a list, a list within layers, and all-linear less some."""
    if not wanted:
        return CompiledTargets()
    by_leaf = {leaf: chosen for leaf, names in index_of(tree).modules_by_leaf.items() if (chosen := names & wanted)}
    ways: list[CompiledTargets] = []
    # Each way is looked at as far as it stays no larger than the smallest known: what is quick to tell comes first.
    for way in (_as_all_linear, _as_list_in_layers, _as_list):
        limit = min((known.size.entries for known in ways), default=1 << 60)
        found = way(by_leaf, tree, limit)
        if found is not None:
            ways.append(found)
    if not ways:
        raise InputError(
            "PEFT cannot tell the ticked modules from others: names that are the ending of longer names are ticked apart from them.",
            "Tick or untick modules of the same name together.",
            "adapter.target_modules",
        )
    return min(reversed(ways), key=lambda way: way.size)


def _as_list(by_leaf: Mapping[str, frozenset[str]], tree: ModuleTree, limit: int) -> CompiledTargets | None:
    """Name endings, and what to exclude of them."""
    every = index_of(tree).modules_by_leaf
    return _listed(by_leaf, tree, limit, lambda leaf, chosen: every[leaf] - chosen, None)


def _as_list_in_layers(by_leaf: Mapping[str, frozenset[str]], tree: ModuleTree, limit: int) -> CompiledTargets | None:
    """Name endings within the layers of what is wanted; None where something wanted is in no layer."""
    numbers = {layer_of(name) for chosen in by_leaf.values() for name in chosen}
    layers = frozenset(layer for layer in numbers if layer is not None)
    if None in numbers or limit < len(by_leaf) + 1:
        return None
    every = index_of(tree).modules_by_leaf
    return _listed(
        by_leaf, tree, limit - 1, lambda leaf, chosen: frozenset(name for name in every[leaf] - chosen if layer_of(name) in layers), layers
    )


def _listed(
    by_leaf: Mapping[str, frozenset[str]],
    tree: ModuleTree,
    limit: int,
    unwanted_of: Callable[[str, frozenset[str]], frozenset[str]],
    layers: frozenset[int] | None,
) -> CompiledTargets | None:
    include: list[str] = []
    exclude: list[str] = []
    for leaf, chosen in by_leaf.items():
        unwanted = unwanted_of(leaf, chosen)
        if not unwanted and (layers is None or leaf not in tree.by_name or leaf in chosen):
            include.append(leaf)
            continue
        members = _members(tree, leaf, chosen, unwanted)
        cover = cheapest_cover(members, limit=limit - len(include) - len(exclude))
        if cover is None:
            return None
        include.extend(cover.include)
        exclude.extend(cover.exclude)
    numbers = None if layers is None else tuple(sorted(layers))
    found = CompiledTargets(_in_tree_order(include, tree), (), _in_tree_order(exclude, tree), numbers)
    return found if len(include) + len(exclude) <= limit else None


def _members(tree: ModuleTree, leaf: str, wanted: AbstractSet[str], unwanted: AbstractSet[str]) -> list[Member]:
    """Return every name of one last part with what is wished of it."""
    index = index_of(tree)

    def wish(name: str) -> Wish:
        return Wish.IN if name in wanted else Wish.OUT if name in unwanted else Wish.EITHER

    return [(index.split(name), wish(name)) for name in index.modules_by_leaf[leaf]]


def _as_all_linear(by_leaf: Mapping[str, frozenset[str]], tree: ModuleTree, limit: int) -> CompiledTargets | None:
    """Return all-linear and what to exclude; None where it reaches too little, or means something else to PEFT."""
    index = index_of(tree)
    reaches = all(chosen <= index.linear_by_leaf.get(leaf, frozenset()) for leaf, chosen in by_leaf.items())
    if not reaches or rewritten_names(tree.model_type):
        return None
    if has_names_within_names(tree) and matching_names(index.linear, tree) ^ index.linear:
        return None
    exclude: list[str] = []
    for leaf, names in index.linear_by_leaf.items():
        unwanted = names - by_leaf.get(leaf, frozenset())
        if len(unwanted) == len(names):
            exclude.append(leaf)
        elif unwanted:
            members: list[Member] = [(index.split(name), Wish.OUT if name in unwanted else Wish.IN) for name in names]
            cover = cheapest_exclusion(members, limit - 1 - len(exclude))
            if cover is None:
                return None
            exclude.extend(cover.exclude)
    return CompiledTargets("all-linear", (), _in_tree_order(exclude, tree))


def _cheapest_parameters(wanted: frozenset[str], tree: ModuleTree) -> tuple[str, ...]:
    """Cover parameters by endings; nothing excludes a parameter again."""
    include: list[str] = []
    for leaf in dict.fromkeys(name.rpartition(".")[2] for name in sorted(wanted)):
        names = [*(module.name for module in tree.by_leaf_name[leaf] if module.kind == "experts"), *plain_parameters(leaf, tree)]
        cover = cheapest_cover([(name.split("."), Wish.IN if name in wanted else Wish.OUT) for name in names], may_exclude=False)
        if cover is None:
            raise InputError(
                f"PEFT cannot tell the ticked parameters {leaf} from others.",
                "Tick parameters of the same name together.",
                "adapter.target_parameters",
            )
        include.extend(cover.include)
    return _in_tree_order(include, tree)


def _in_tree_order(entries: Iterable[str], tree: ModuleTree) -> tuple[str, ...]:
    """Order entries as the tree first shows their last parts, then by themselves."""
    position = {leaf: place for place, leaf in enumerate(tree.by_leaf_name)}
    return tuple(sorted(entries, key=lambda entry: (position[entry.rpartition(".")[2]], *_numbered(entry))))


def _ordered(endings: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(endings.items(), key=lambda item: _numbered(item[0]))


def _numbered(text: str) -> list[tuple[int, int, str]]:
    """Sort numbers in names as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in text.split(".")]


def _escaped(ending: str) -> str:
    """Escape an ending for a pattern key; one that must be the complete name keeps its ^."""
    return f"^{re.escape(ending[1:])}" if ending.startswith("^") else re.escape(ending)


def _plain(alpha: float) -> int | float:
    return int(alpha) if alpha.is_integer() else alpha
