"""How many parameters an adapter adds and trains: PEFT's two numbers, counted from names and shapes alone."""

from __future__ import annotations

from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets.resolve import Resolution


def parameters_of_target(module: ModuleInfo, r: int, use_dora: bool = False) -> int:
    """Count what an adapter of rank `r` adds: A is r × in, B is out × r, once for each fused expert; DoRA adds out magnitudes."""
    return r * max(1, module.num_experts) * (module.in_features + module.out_features) + (module.out_features if use_dora else 0)


def count_by_module(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> dict[str, int]:
    """Count the trainable parameters on each module that has some: adapters, biases, and modules trained in full."""
    counts = {target.name: parameters_of_target(tree.by_name[target.name], target.r, adapter.use_dora) for target in resolution.targets}
    for module in trained_biases(adapter, tree, resolution):
        counts[module.name] = counts.get(module.name, 0) + bias_parameters(module)
    for name in resolution.saved_modules:
        counts[name] = tree.by_name[name].parameters
    return counts


def trainable_parameters(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> int:
    """Count what trains: the first of PEFT's `get_nb_trainable_parameters()`."""
    return sum(count_by_module(adapter, tree, resolution).values())


def all_parameters(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> int:
    """Count base model, adapter and copies of modules trained in full: the second of PEFT's `get_nb_trainable_parameters()`."""
    added = sum(parameters_of_target(tree.by_name[target.name], target.r, adapter.use_dora) for target in resolution.targets)
    return tree.all_parameters + added + sum(tree.by_name[name].parameters for name in resolution.saved_modules)


def bias_parameters(module: ModuleInfo) -> int:
    """Count a module's bias: what it holds itself beside its weight."""
    if not module.has_bias:
        return 0
    weight = 1
    for size in module.shape:
        weight *= size
    return module.own_parameters - weight if module.shape else 0


def trained_biases(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> list[ModuleInfo]:
    """Return the modules whose bias trains in place; those trained in full have theirs in the copy."""
    if adapter.bias == "none":
        return []
    if adapter.bias == "lora_only":
        wrapped = (tree.by_name[target.name] for target in resolution.targets)
        modules = list(dict.fromkeys(module if module.kind != "experts" else tree.by_name[module.parent] for module in wrapped))
    else:
        modules = [module for module in tree.modules if module.kind != "experts"]
    above = tuple(f"{name}." for name in resolution.saved_modules)
    return [module for module in modules if module.has_bias and not f"{module.name}.".startswith(above)]
