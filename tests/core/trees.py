"""Small module trees made from names, for tests that need no model."""

from __future__ import annotations

from lora_studio.core.modules import ModuleInfo, ModuleKind, ModuleTree


def tree_from(
    names: list[str],
    others: list[str] | None = None,
    parameters: list[str] | None = None,
    model_type: str = "llama",
    output: str = "",
) -> ModuleTree:
    """Return a tree whose `names` are Linear, `others` norms, `parameters` fused experts, with the containers above them."""
    kinds: dict[str, ModuleKind] = {"": "other"}
    for name in [*names, *(others or []), *(parameters or [])]:
        parts = name.split(".")
        for end in range(1, len(parts)):
            kinds.setdefault(".".join(parts[:end]), "other")
    kinds |= dict.fromkeys(names, "linear") | dict.fromkeys(parameters or [], "experts")
    kinds |= dict.fromkeys(others or [], "other")
    modules = tuple(_module(name, kinds[name]) for name in sorted(kinds))
    return ModuleTree("Model", model_type, 1000, False, output, modules)


def _module(name: str, kind: ModuleKind) -> ModuleInfo:
    if kind == "linear":
        return ModuleInfo(name, "Linear", "linear", (8, 4), 32, 32, 4, 8, targetable=True)
    if kind == "experts":
        return ModuleInfo(name, "Parameter", "experts", (2, 8, 4), 64, 64, 4, 8, num_experts=2, targetable=True)
    return ModuleInfo(name, "Module", reason="holds other modules")


def transformer(layers: int, experts: int = 0) -> ModuleTree:
    """Return the tree of a decoder; with `experts`, each a module of its own."""
    names: list[str] = []
    for layer in range(layers):
        names += [f"model.layers.{layer}.self_attn.{leaf}" for leaf in ("q_proj", "k_proj", "v_proj", "o_proj")]
        owners = [f"mlp.experts.{expert}" for expert in range(experts)] or ["mlp"]
        names += [f"model.layers.{layer}.{owner}.{leaf}" for owner in owners for leaf in ("gate_proj", "up_proj", "down_proj")]
    return tree_from([*names, "lm_head"], ["model.norm", "model.embed_tokens"], output="lm_head")
