"""The size of `adapter_model.safetensors` before there is one.

Source: the safetensors format (8 bytes, a JSON header padded to 8, the tensors) and PEFT's `get_peft_model_state_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lora_studio.core.counts import bias_parameters, trained_biases
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets.resolve import Resolution, Target

BYTES_OF_DTYPE = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

_PREFIX = "base_model.model."
_HEADER = len('{"__metadata__":{"format":"pt"}}') + 8
_TENSOR_HEADER = len('"":{"dtype":"F32","shape":[],"data_offsets":[,]},')
# Names of embeddings whose own weights PEFT saves too when target_modules lists them.
_EMBEDDING_NAMES = frozenset({"embed_tokens", "lm_head"})


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    item_bytes: int


def adapter_bytes(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution, base_dtype: str = "float32") -> int:
    """Return the size of `adapter_model.safetensors`, in bytes: exact in its tensors, near in its header.

    A and B are stored in the adapter's dtype; modules trained in full and biases in no less than float32.
    """
    adapter_size, base_size = BYTES_OF_DTYPE[adapter.dtype], max(4, BYTES_OF_DTYPE.get(base_dtype, 4))
    return _file_bytes([*_matrices(adapter, tree, resolution, adapter_size), *_base_tensors(adapter, tree, resolution, base_size)])


def whole_shapes(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of the base that is trained itself and stored whole, by its name, such as `lm_head.weight`."""
    saved = (tensor for name in resolution.saved_modules for module in _at_or_below(name, tree) for tensor in _own_tensors(module, 0))
    shapes = {tensor.name.removeprefix(_PREFIX): tensor.shape for tensor in saved}
    biases = {f"{module.name}.bias": (bias_parameters(module),) for module in _stored_biases(adapter, tree, resolution)}
    return {**biases, **shapes}


def _file_bytes(tensors: list[_Tensor]) -> int:
    header, end = _HEADER, 0
    for tensor in tensors:
        start, size = end, tensor.item_bytes
        for length in tensor.shape:
            size *= length
            header += len(str(length)) + 1
        end += size
        header += len(tensor.name) + _TENSOR_HEADER - 1 + len(str(start)) + len(str(end)) + (tensor.item_bytes == 2)
    return end + header + -header % 8


def _matrices(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution, item_bytes: int) -> Iterator[_Tensor]:
    for target in resolution.targets:
        module = tree.by_name[target.name]
        rank = target.r * max(1, module.num_experts)
        a_name, b_name = _matrix_names(target)
        yield _Tensor(a_name, (rank, module.in_features), item_bytes)
        yield _Tensor(b_name, (module.out_features, rank), item_bytes)
        if adapter.use_dora:
            yield _Tensor(f"{_PREFIX}{target.name}.lora_magnitude_vector", (module.out_features,), item_bytes)


def _matrix_names(target: Target) -> tuple[str, str]:
    if target.kind == "embedding":
        return f"{_PREFIX}{target.name}.lora_embedding_A", f"{_PREFIX}{target.name}.lora_embedding_B"
    owner = target.name.rpartition(".")[0] if target.kind == "experts" else target.name
    return f"{_PREFIX}{owner}.lora_A.weight", f"{_PREFIX}{owner}.lora_B.weight"


def _base_tensors(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution, item_bytes: int) -> Iterator[_Tensor]:
    for name in resolution.saved_modules:
        for module in _at_or_below(name, tree):
            yield from _own_tensors(module, item_bytes)
    for module in _embeddings_saved_too(tree, resolution):
        yield _Tensor(f"{_PREFIX}{module.name}.base_layer.weight", module.shape, item_bytes)
    for module in _stored_biases(adapter, tree, resolution):
        yield _Tensor(f"{_PREFIX}{module.name}.bias", (bias_parameters(module),), item_bytes)


def _at_or_below(name: str, tree: ModuleTree) -> Iterator[ModuleInfo]:
    yield tree.by_name[name]
    for module in tree.children.get(name, ()):
        yield from _at_or_below(module.name, tree)


def _own_tensors(module: ModuleInfo, item_bytes: int) -> Iterator[_Tensor]:
    if module.shape:
        yield _Tensor(f"{_PREFIX}{module.name}.weight", module.shape, item_bytes)
    if module.has_bias:
        yield _Tensor(f"{_PREFIX}{module.name}.bias", (bias_parameters(module),), item_bytes)


def _embeddings_saved_too(tree: ModuleTree, resolution: Resolution) -> Iterable[ModuleInfo]:
    """Return the embedding and head whose own weights PEFT saves because target_modules names one plainly."""
    if _EMBEDDING_NAMES.isdisjoint(resolution.adapter.target_modules):
        return ()
    return [
        tree.by_name[target.name]
        for target in resolution.targets
        if target.name == tree.output_module or (target.kind == "embedding" and target.name.rpartition(".")[2] in _EMBEDDING_NAMES)
    ]


def _stored_biases(adapter: AdapterSettings, tree: ModuleTree, resolution: Resolution) -> Iterable[ModuleInfo]:
    """Return the modules whose bias PEFT writes: with "all" also those of modules whose copy trains instead."""
    if adapter.bias == "all":
        return [module for module in tree.modules if bias_parameters(module)]
    return trained_biases(adapter, tree, resolution)
