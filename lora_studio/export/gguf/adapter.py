"""An adapter as GGUF, by our own writer: every module's scale folded into B, rows in llama.cpp's order.

llama.cpp multiplies all of an adapter's updates by one `alpha / rank`, which is wrong for rsLoRA and for ranks and alphas of their own;
with alpha 0 it multiplies by 1. Source: `src/llama-adapter.cpp` of llama.cpp.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from lora_studio.adapters.saved_adapter import AdapterTensors, SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.export.gguf.fit import beyond_gguf
from lora_studio.export.gguf.names import GgufNames, Rows
from lora_studio.export.merge.changes import refuse_changed_base
from lora_studio.models.check import read_model_config
from lora_studio.models.gguf_header import read_gguf
from lora_studio.models.gguf_tensors import map_tensor, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDINGS = 2.0**-22
_COLUMNS = 256  # of an update that is looked at, at a time
_MERGE = "Merge it, and export the model as GGUF."


def refuse_beyond_gguf(adapter: SavedAdapter, base: Path, tree: ModuleTree) -> GgufNames:
    """See that an adapter can be written as GGUF; give its base's names.

    Raises:
        InputError: It is more than A and B on modules that llama.cpp takes adapters on.
    """
    refuse_changed_base(adapter)
    names = GgufNames(read_model_config(base))
    reason = beyond_gguf(adapter, names.family, tree)
    if reason:
        raise InputError(reason, _MERGE, "kind")
    for name in adapter.pairs:
        if name not in tree.by_name:
            raise InputError(f"The adapter does not fit this base model: it adapts {name}, which the base has not.", "", "source")
        if names.of(f"{name}.weight") is None:
            raise InputError(f"llama.cpp has no tensor for {name}.", _MERGE, "kind")
    return names


def write_gguf_adapter(adapter: SavedAdapter, base: Path, tree: ModuleTree, target: Path) -> None:
    """Write an adapter as one GGUF file, in float32.

    Args:
        adapter: Opened with the base's tree.
        base: The base model's folder.
        tree: The base's modules.
        target: The file.

    Raises:
        InputError: See `refuse_beyond_gguf`.
        OSError: The disk does not take it.
    """
    import gguf

    names = refuse_beyond_gguf(adapter, base, tree)
    writer: Any = gguf.GGUFWriter(str(target), names.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 0.0)
    with adapter.reading() as tensors:
        for name, shape in _shapes(adapter, names):
            writer.add_tensor_info(name, shape, numpy.dtype(numpy.float32), 4 * math.prod(shape))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for _, tensor in gguf_tensors(adapter, names, tensors):
                writer.write_tensor_data(tensor.contiguous().numpy())
        finally:
            writer.close()


def _shapes(adapter: SavedAdapter, names: GgufNames) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Say what `gguf_tensors` will give, in its order."""
    for pair in adapter.pairs.values():
        weight = f"{names.of(f'{pair.name}.weight')}"
        a, b = (adapter.header.tensors[key].shape for key in (pair.a_key, pair.b_key))
        yield f"{weight}.lora_a", a[::-1] if pair.embedding else a
        yield f"{weight}.lora_b", b


def gguf_tensors(adapter: SavedAdapter, names: GgufNames, tensors: AdapterTensors) -> Iterator[tuple[str, Tensor]]:
    """Return A and B of every module as llama.cpp has them: A r × in, B out × r with the scale in it; of an embedding A is rows × r."""
    for pair in adapter.pairs.values():
        a, b = tensors.factors(pair.name)
        scaled = b * pair.scale
        rows = names.conversion(f"{pair.name}.weight").rows
        if rows is not None:
            scaled = rows.moved(scaled)
        weight = f"{names.of(f'{pair.name}.weight')}"
        yield f"{weight}.lora_a", a.T if pair.embedding else a
        yield f"{weight}.lora_b", scaled


def gguf_adapter_fault(adapter: SavedAdapter, base: Path, tree: ModuleTree, written: Path) -> tuple[int, str]:
    """Read a written adapter again and recompute every update; give how many were compared, and what is wrong with one, if any is.

    Each update is made from the file's own factors and, apart from that, from the adapter's by a way of its own: in float64, rows moved
    after the product, some columns at a time.
    """
    names = refuse_beyond_gguf(adapter, base, tree)
    header = read_gguf(written)
    found = {tensor.name: tensor for tensor in header.tensors}
    if header.settings.get("adapter.lora.alpha") != 0.0:
        return 0, "its alpha is not 0, so that llama.cpp would scale it once more"
    with adapter.reading() as tensors:
        for count, pair in enumerate(adapter.pairs.values()):
            weight = str(names.of(f"{pair.name}.weight"))
            a, b = found.pop(f"{weight}.lora_a", None), found.pop(f"{weight}.lora_b", None)
            if a is None or b is None:
                return count, f"it has no update of {weight}"
            own_a, own_b = (factor.double() for factor in tensors.factors(pair.name))
            a, b = (torch.from_numpy(unpack(map_tensor(written, header, factor), factor.dtype).astype("float64")) for factor in (a, b))
            rows = names.conversion(f"{pair.name}.weight").rows
            if not is_same_update(a.T if pair.embedding else a, b, own_a, own_b * pair.scale, rows):
                return count, f"its update of {weight} is not the adapter's"
    return len(adapter.pairs), "" if not found else f"it has more than the adapter: {sorted(found)[0]}"


def is_same_update(a: Tensor, b: Tensor, own_a: Tensor, own_b: Tensor, rows: Rows | None) -> bool:
    """Return whether b·a is own_b·own_a with its rows moved: each entry, to what rounding B can have changed in |B|·|A|.

    A share of the update would not do: where its parts cancel, it is far smaller than what was rounded.
    """
    if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != (own_b.shape[0], own_a.shape[1]):
        return False
    for some, own_some in zip(a.split(_COLUMNS, dim=1), own_a.split(_COLUMNS, dim=1), strict=True):
        exact = own_b @ own_some
        expected = exact if rows is None else rows.moved(exact)
        if not bool(((b @ some - expected).abs() <= (b.abs() @ some.abs()) * _ROUNDINGS).all()):
            return False
    return True
