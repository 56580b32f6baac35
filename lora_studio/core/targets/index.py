"""What is asked of a tree at every click, worked out once and kept on the tree itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.fused import rewritten_name, rewritten_names

_KEPT_AS = "_target_index"


class TargetIndex:
    """Names of a tree, by what they end in and what can be done with them."""

    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree

    @cached_property
    def modules_by_leaf(self) -> dict[str, frozenset[str]]:
        """Names of modules, parameters left out, by their last part."""
        tables = {
            leaf: frozenset(module.name for module in modules if module.kind != "experts" and module.name)
            for leaf, modules in self._tree.by_leaf_name.items()
        }
        return {leaf: names for leaf, names in tables.items() if names}

    @cached_property
    def linear_by_leaf(self) -> dict[str, frozenset[str]]:
        """Names that `all-linear` means, by their last part: every Linear and Conv1D that can have an adapter, but the head."""
        found: dict[str, set[str]] = {}
        for name in self._every_linear:
            if self._tree.by_name[name].targetable:
                found.setdefault(name.rpartition(".")[2], set()).add(name)
        return {leaf: frozenset(names) for leaf, names in found.items()}

    @cached_property
    def _every_linear(self) -> tuple[str, ...]:
        modules = (module for module in self._tree.modules if module.kind in ("linear", "conv1d"))
        return tuple(module.name for module in modules if module.name != self._tree.output_module)

    @cached_property
    def refused_linear(self) -> tuple[str, ...]:
        """Names that PEFT takes for `all-linear` and that can have no adapter, in the order of the tree."""
        return tuple(name for name in self._every_linear if not self._tree.by_name[name].targetable)

    @cached_property
    def linear(self) -> frozenset[str]:
        """Names that `all-linear` means."""
        return frozenset[str]().union(*self.linear_by_leaf.values())

    @cached_property
    def idle(self) -> frozenset[str]:
        """Names on which an adapter would learn nothing."""
        return frozenset(module.name for module in self._tree.modules if module.idle)

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that `target_parameters` reaches."""
        return frozenset(module.name for module in self._tree.modules if module.kind == "experts")

    @cached_property
    def targetable(self) -> frozenset[str]:
        """Names that can have an adapter."""
        return frozenset(module.name for module in self._tree.modules if not targetable_reason(module, self._tree))

    @cached_property
    def useful_layers(self) -> dict[str, frozenset[int]]:
        """Numbers of the layers in which an adapter on a linear layer or on experts would learn, by the name of what holds them."""
        return self.layers_of(((self.linear | self.parameters) & self.targetable) - self.idle)

    def layers_of(self, names: Iterable[str]) -> dict[str, frozenset[int]]:
        """Return the numbers of the layers that names are in, by the name of what holds the layers."""
        found: dict[str, set[int]] = {}
        for name in names:
            parts = self.split(name)
            at = next((place for place, part in enumerate(parts) if part.isdecimal()), None)
            if at is not None:
                found.setdefault(".".join(parts[:at]), set()).add(int(parts[at]))
        return {stack: frozenset(layers) for stack, layers in found.items()}

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Parts of the names split so far."""
        return {}

    def split(self, name: str) -> list[str]:
        """Return the parts of a name."""
        known = self.parts.get(name)
        if known is None:
            known = self.parts[name] = name.split(".")
        return known


def index_of(tree: ModuleTree) -> TargetIndex:
    """Return the tree's index; it lives as long as the tree, as the tree's own tables do."""
    kept = vars(tree).get(_KEPT_AS)
    if kept is None:
        kept = vars(tree)[_KEPT_AS] = TargetIndex(tree)
    return kept


def targetable_reason(module: ModuleInfo, tree: ModuleTree) -> str:
    """Say why a module can have no adapter; empty where it can."""
    if not module.targetable:
        return module.reason or f"a {module.class_name} has no adapter"
    if module.kind == "experts":
        return ""
    old = rewritten_name(module.name, rewritten_names(tree.model_type))
    return f"PEFT reads {old} as the fused experts in a {tree.model_type} model" if old else ""
