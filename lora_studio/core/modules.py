"""The module tree of a base model as plain data: what `inspect` finds, what targets are chosen from.

It is made on the meta device (`lora_studio.models.inspect`), kept as JSON, and read by the window before torch is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

TREE_VERSION = 2

ModuleKind = Literal["linear", "conv1d", "embedding", "experts", "other"]


@dataclass(frozen=True)
class ModuleInfo:
    """One module of the base model, or one parameter that PEFT reaches by its own name (`kind` "experts").

    Such a parameter is a fused 3-D stack of experts, or the 2-D weight of a router that is no Linear
    (`model.layers.0.mlp.gate.weight`, with `num_experts` 1).

    Attributes:
        name: Its path as in `named_modules()`, such as `model.layers.0.self_attn.q_proj`; the root is "".
            An expert parameter's is `<module>.<parameter>`.
        class_name: Its class, such as `Linear`; `Parameter` for an expert parameter.
        kind: How LoRA wraps it; "other" for containers, norms and whatever has no adapter.
        shape: Of its `weight` as torch stores it (out × in for Linear, in × out for Conv1D, experts × … for experts);
            empty for a module without one.
        parameters: Parameters of its own and below it, each counted once though tied.
        own_parameters: Parameters directly on it.
        in_features: What an adapter's A reads; 0 where it has no adapter.
        out_features: What an adapter's B writes; 0 where it has no adapter.
        num_experts: Experts fused in the parameter; 1 for a router's weight; 0 elsewhere.
        targetable: Whether an adapter can go here.
        reason: Why not, or what to know ("tied to model.embed_tokens"); a sentence without its full stop, or empty.
        tied_to: Name of the module whose weight this one shares, else empty.
        has_bias: Whether it has a bias vector.
        idle: Why an adapter here would learn nothing though one can go here, such as "text does not pass through it"; a
            sentence without its full stop, or empty where it learns, or nobody could try.
    """

    name: str
    class_name: str
    kind: ModuleKind = "other"
    shape: tuple[int, ...] = ()
    parameters: int = 0
    own_parameters: int = 0
    in_features: int = 0
    out_features: int = 0
    num_experts: int = 0
    targetable: bool = False
    reason: str = ""
    tied_to: str = ""
    has_bias: bool = False
    idle: str = ""

    @property
    def parent(self) -> str:
        """Name of the module above."""
        return self.name.rpartition(".")[0]

    @property
    def remark(self) -> str:
        """What to know of targeting it: why it cannot be, or that it would learn nothing; empty where there is nothing to know."""
        return self.reason or (f"an adapter here would learn nothing: {self.idle}" if self.idle else "")

    @property
    def leaf_name(self) -> str:
        """Last part of the name."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class ModuleTree:
    """All modules of one base model, in `named_modules()` order, the root first.

    Attributes:
        architecture: Class of the model, such as `LlamaForCausalLM`.
        model_type: transformers' word for the family, such as `llama`.
        all_parameters: Parameters of the base model, tied ones counted once.
        tied_embeddings: Whether the head shares the input embedding's weight.
        output_module: Name of the head, such as `lm_head`, which `all-linear` leaves out.
        bias_parameters: Elements of every parameter whose name contains `bias`.
        modules: The modules.
    """

    architecture: str
    model_type: str
    all_parameters: int
    tied_embeddings: bool
    output_module: str
    modules: tuple[ModuleInfo, ...]
    bias_parameters: int = 0
    version: int = field(default=TREE_VERSION)

    @cached_property
    def by_name(self) -> dict[str, ModuleInfo]:
        """Modules by their name."""
        return {module.name: module for module in self.modules}

    @cached_property
    def by_leaf_name(self) -> dict[str, tuple[ModuleInfo, ...]]:
        """Modules by the last part of their name, in order: a name that ends in a dot and an entry ends in the entry's last part."""
        found: dict[str, list[ModuleInfo]] = {}
        for module in self.modules:
            found.setdefault(module.leaf_name, []).append(module)
        return {leaf: tuple(modules) for leaf, modules in found.items()}

    @cached_property
    def children(self) -> dict[str, tuple[ModuleInfo, ...]]:
        """Modules below each name, in order; only names that have some."""
        found: dict[str, list[ModuleInfo]] = {}
        for module in self.modules:
            if module.name:
                found.setdefault(module.parent, []).append(module)
        return {name: tuple(below) for name, below in found.items()}

    def tied_partner(self, name: str) -> str:
        """Return the name of a module that shares a module's weight; empty where none does."""
        module = self.by_name.get(name)
        return (module.tied_to if module else "") or next((other.name for other in self.modules if other.tied_to == name), "")

    @property
    def targetable(self) -> Iterator[ModuleInfo]:
        """Modules an adapter can go on."""
        return (module for module in self.modules if module.targetable)

    def to_json(self) -> str:
        """Write the tree as JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> ModuleTree:
        """Read a tree back.

        Raises:
            ValueError: It is no tree, or one of another version: make it again.
        """
        raw: Any = json.loads(text)
        if not isinstance(raw, dict) or cast("dict[str, Any]", raw).get("version") != TREE_VERSION:
            raise ValueError("a module tree of another version")
        try:
            rows = raw.pop("modules")
            modules = tuple(_module_from(row) for row in rows)
            return cls(modules=modules, **raw)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a module tree: {error}") from error


def _module_from(row: dict[str, Any]) -> ModuleInfo:
    shape: list[int] = row.pop("shape")
    return ModuleInfo(shape=tuple(shape), **row)
