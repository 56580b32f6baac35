"""Named selections as functions of the tree."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.index import index_of

_ATTENTION_WORDS = ("attn", "attention")


def attention(tree: ModuleTree) -> frozenset[str]:
    """Linear layers of the attention blocks."""
    return frozenset(module.name for module in _linear_layers(tree) if _in_attention(module))


def mlp(tree: ModuleTree) -> frozenset[str]:
    """Linear layers of the numbered blocks that are not attention, fused experts included, routers not."""
    return frozenset(module.name for module in _linear_layers(tree) if not _in_attention(module) and _is_numbered(module))


def all_linear(tree: ModuleTree) -> frozenset[str]:
    """Every linear layer but the head, fused experts included, routers not."""
    index = index_of(tree)
    return (index.linear | frozenset(name for name in index.parameters if tree.by_name[name].num_experts != 1)) & index.targetable


def no_targets(_tree: ModuleTree) -> frozenset[str]:
    """Nothing."""
    return frozenset()


PRESETS: MappingProxyType[str, Callable[[ModuleTree], frozenset[str]]] = MappingProxyType(
    {"attention": attention, "mlp": mlp, "all_linear": all_linear, "none": no_targets}
)


def _linear_layers(tree: ModuleTree) -> list[ModuleInfo]:
    index = index_of(tree)
    wanted = (index.linear | index.parameters) & index.targetable
    return [module for module in tree.modules if module.name in wanted and module.num_experts != 1]


def _in_attention(module: ModuleInfo) -> bool:
    return any(word in part for part in module.name.lower().split(".") for word in _ATTENTION_WORDS)


def _is_numbered(module: ModuleInfo) -> bool:
    return any(part.isdecimal() for part in module.name.split("."))
