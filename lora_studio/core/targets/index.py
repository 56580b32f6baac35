"""What is asked of a tree at every click, worked out once and kept on the tree itself."""

from __future__ import annotations

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
        """Names that `all-linear` means, by their last part: every Linear and Conv1D but the head."""
        found: dict[str, set[str]] = {}
        for module in self._tree.modules:
            if module.kind in ("linear", "conv1d") and module.name != self._tree.output_module:
                found.setdefault(module.leaf_name, set()).add(module.name)
        return {leaf: frozenset(names) for leaf, names in found.items()}

    @cached_property
    def linear(self) -> frozenset[str]:
        """Names that `all-linear` means."""
        return frozenset[str]().union(*self.linear_by_leaf.values())

    @cached_property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that `target_parameters` reaches."""
        return frozenset(module.name for module in self._tree.modules if module.kind == "experts")

    @cached_property
    def targetable(self) -> frozenset[str]:
        """Names that can have an adapter."""
        return frozenset(module.name for module in self._tree.modules if not targetable_reason(module, self._tree))

    @cached_property
    def parts(self) -> dict[str, list[str]]:
        """Parts of the names split so far."""
        return {}

    def split(self, name: str) -> list[str]:
        """Give the parts of a name."""
        known = self.parts.get(name)
        if known is None:
            known = self.parts[name] = name.split(".")
        return known


def index_of(tree: ModuleTree) -> TargetIndex:
    """Give the tree's index; it lives as long as the tree, as the tree's own tables do."""
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
