"""Named selections as functions of the tree: what can have an adapter and would learn something there."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.blocks import Blocks, Part
from lora_studio.core.targets.index import index_of


def attention(tree: ModuleTree) -> frozenset[str]:
    """Linear layers of the attention blocks, linear attention included; what chooses tokens for them (an indexer) is none of them."""
    return _part(tree, "attention")


def mlp(tree: ModuleTree) -> frozenset[str]:
    """Linear layers of the MLPs, fused experts included, routers not."""
    return _part(tree, "mlp")


def all_linear(tree: ModuleTree) -> frozenset[str]:
    """Every linear layer but the head, fused experts included, routers that are no Linear not."""
    return frozenset(module.name for module in _linear_layers(tree))


def no_targets(_tree: ModuleTree) -> frozenset[str]:
    """Nothing."""
    return frozenset()


PRESETS: MappingProxyType[str, Callable[[ModuleTree], frozenset[str]]] = MappingProxyType(
    {"attention": attention, "mlp": mlp, "all_linear": all_linear, "none": no_targets}
)


def _linear_layers(tree: ModuleTree) -> list[ModuleInfo]:
    index = index_of(tree)
    wanted = ((index.linear | index.parameters) & index.targetable) - index.idle
    return [module for module in tree.modules if module.name in wanted and module.num_experts != 1]


def _part(tree: ModuleTree, part: Part) -> frozenset[str]:
    blocks = Blocks(tree)
    return frozenset(module.name for module in _linear_layers(tree) if blocks.part_of(module) == part and not blocks.is_router(module))
