"""How large an adapter is: PEFT's two numbers and the file's size, counted from names and shapes alone."""

from __future__ import annotations

from lora_studio.core.config import AdapterSettings
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.targets.resolve import Resolution, Target

BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
# What a safetensors header spends on one tensor beside its name: dtype, shape, offsets and their punctuation.
_HEADER_BYTES_A_TENSOR = 66
_NAME_PREFIX = len("base_model.model.")
_EMBEDDING_NAMES = frozenset({"embed_tokens", "lm_head"})


def parameters_of_target(module: ModuleInfo, r: int, use_dora: bool = False) -> int:
    """Count what an adapter of rank `r` adds to a module: A is r × in, B is out × r, once for each fused expert; DoRA adds its out magnitudes."""
    return r * max(1, module.num_experts) * (module.in_features + module.out_features) + (module.out_features if use_dora else 0)


def count_by_module(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> dict[str, int]:
    """Count the trainable parameters on each module that has some: adapters, biases and modules trained in full, in the order of the tree."""
    counts = {target.name: parameters_of_target(tree.by_name[target.name], target.r, adapter.use_dora) for target in resolution.targets}
    for module in _trained_biases(adapter, tree, resolution):
        counts[module.name] = counts.get(module.name, 0) + bias_parameters(module)
    for name in resolution.saved_modules:
        counts[name] = tree.by_name[name].parameters
    return counts


def trainable_parameters(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> int:
    """Count what trains: the first of PEFT's `get_nb_trainable_parameters()`."""
    return sum(count_by_module(adapter, tree, resolution).values())


def all_parameters(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> int:
    """Count the base model, the adapter, and the copies of modules trained in full: the second of PEFT's `get_nb_trainable_parameters()`."""
    added = sum(parameters_of_target(tree.by_name[target.name], target.r, adapter.use_dora) for target in resolution.targets)
    return tree.all_parameters + added + sum(tree.by_name[name].parameters for name in resolution.saved_modules)


def adapter_bytes(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution, base_dtype: str = "float32") -> int:
    """Estimate the size of `adapter_model.safetensors`, in bytes: exact in its tensors, within some bytes a tensor in its header.

    A and B are stored in the adapter's dtype; modules trained in full, biases and the embeddings PEFT adds in the base model's.
    """
    adapter_size = BYTES_OF_DTYPE[adapter.dtype]
    base_size = BYTES_OF_DTYPE.get(base_dtype, 4)
    added = sum(parameters_of_target(tree.by_name[target.name], target.r, adapter.use_dora) for target in resolution.targets)
    stored = [tree.by_name[name] for name in (*resolution.saved_modules, *_embeddings_saved_too(tree, resolution))]
    biases = _stored_biases(adapter, tree, resolution)
    payload = added * adapter_size + (sum(module.parameters for module in stored) + biases) * base_size
    return payload + _header_bytes(adapter, resolution.targets) + sum(len(module.name) + _NAME_PREFIX + _HEADER_BYTES_A_TENSOR for module in stored)


def bias_parameters(module: ModuleInfo) -> int:
    """Count a module's bias: what it holds itself beside its weight."""
    if not module.has_bias:
        return 0
    weight = 1
    for size in module.shape:
        weight *= size
    return module.own_parameters - weight if module.shape else 0


def _trained_biases(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> list[ModuleInfo]:
    """Give the modules whose bias trains in place; those trained in full have theirs in the copy."""
    if adapter.bias == "none":
        return []
    if adapter.bias == "lora_only":
        wrapped = (tree.by_name[target.name] for target in resolution.targets)
        modules = list(dict.fromkeys(module if module.kind != "experts" else tree.by_name[module.parent] for module in wrapped))
    else:
        modules = [module for module in tree.modules if module.kind != "experts"]
    above = tuple(f"{name}." for name in resolution.saved_modules)
    return [module for module in modules if module.has_bias and not f"{module.name}.".startswith(above)]


def _stored_biases(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> int:
    """Count the bias elements PEFT writes: with "all" also those of modules whose copy trains instead."""
    if adapter.bias == "all":
        return sum(bias_parameters(module) for module in tree.modules)
    return sum(bias_parameters(module) for module in _trained_biases(adapter, tree, resolution))


def _embeddings_saved_too(tree: ModuleTree, resolution: Resolution) -> tuple[str, ...]:
    """Name the embedding and head whose own weights PEFT saves because target_modules names one plainly."""
    if _EMBEDDING_NAMES.isdisjoint(resolution.adapter.target_modules):
        return ()
    return tuple(
        target.name for target in resolution.targets
        if target.name == tree.output_module or (target.kind == "embedding" and target.name.rpartition(".")[2] in _EMBEDDING_NAMES)
    )


def _header_bytes(adapter: AdapterSettings, targets: tuple[Target, ...]) -> int:
    matrices = len(".lora_A.weight") + len(".lora_B.weight")
    magnitude = len(".lora_magnitude_vector") if adapter.use_dora else 0
    names = sum((len(target.name) + _NAME_PREFIX) * (3 if magnitude else 2) + matrices + magnitude for target in targets)
    return 8 + len('{"__metadata__":{"format":"pt"}}') + names + len(targets) * (3 if magnitude else 2) * _HEADER_BYTES_A_TENSOR
