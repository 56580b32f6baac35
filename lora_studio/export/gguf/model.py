"""A whole model as GGUF: settings and vocabulary from llama.cpp's own converter, weights put in their places by us.

The converter takes every tensor through numpy, ten times as slow as the disk. For families known tensor by tensor (`gguf_names`) it is
stopped before the weights, and those go from file to file in blocks; for all others, and for other types, it does the whole work.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.export.gguf.headers import write_header
from lora_studio.export.gguf.llama_cpp import Converter, convert, find_quantize, quantize, require_converter
from lora_studio.export.gguf.llama_families import EXACT_FAMILIES, model_beyond_gguf
from lora_studio.export.gguf.names import ROPE_FACTORS, Conversion, GgufNames
from lora_studio.export.merge.blocks import read_into, refuse_overflow
from lora_studio.export.merge.shards import put_at
from lora_studio.export.request import K_QUANTS, OUTTYPES, PLAIN_TYPES
from lora_studio.models.check import read_model_config
from lora_studio.models.gguf_header import GgufHeader, GgufTensor, read_gguf_layout
from lora_studio.models.stored_tensors import StoredTensor, StoredTensors

if TYPE_CHECKING:
    from lora_studio.core.control import TaskContext

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK_VALUES = 1 << 19
_WORKERS = 2


def check_outtype(outtype: str) -> None:
    """See that a model can be written so here.

    Raises:
        InputError: There is no such type, or what makes it is not here.
    """
    if outtype not in OUTTYPES:
        raise InputError(f"GGUF models are not written as {outtype!r}.", f"Choose one of: {', '.join(OUTTYPES)}.", "outtype")
    require_converter()
    if outtype in K_QUANTS and find_quantize() is None:
        raise InputError(
            f"Writing {outtype} needs llama.cpp's program llama-quantize, which is not here.",
            f"Build llama.cpp and put it on the search path, or choose one of: {', '.join(PLAIN_TYPES)}.",
            "outtype",
        )


def refuse_model_beyond_gguf(folder: Path) -> None:
    """See that a model is one that the converter takes, as far as that is known before it is asked.

    Raises:
        InputError: It is not, or there is no converter.
    """
    reason = model_beyond_gguf(folder, own_converter=require_converter().is_own)
    if reason:
        raise InputError(reason, "Export it as a merged model.", "kind")


def write_gguf_model(context: TaskContext, folder: Path, target: Path, outtype: str, name: str = "") -> Generator[RunEvent]:
    """Write a transformers model as one GGUF file.

    Args:
        context: The host's.
        folder: The model: config.json, safetensors, tokenizer. Float32 weights lose nothing but in the type that is asked for.
        target: The file.
        outtype: One of `OUTTYPES`.
        name: What the file calls the model; empty for the folder's name.

    Raises:
        InputError: See `check_outtype`.
        StudioError: The converter cannot take this model, or a value is too large for f16.
        OSError: The disk does not take it.
    """
    check_outtype(outtype)
    converter = require_converter()
    if outtype not in K_QUANTS:
        yield from _write_plain(context, converter, folder, target, outtype, name)
        return
    between = target.with_name(f"{target.name}.f32")
    yield from _write_plain(context, converter, folder, between, "f32", name)
    program = find_quantize()
    assert program is not None
    yield from quantize(context, program, between, target, outtype)
    between.unlink()


def _write_plain(context: TaskContext, converter: Converter, folder: Path, target: Path, outtype: str, name: str) -> Generator[RunEvent]:
    if outtype in ("f32", "f16", "bf16") and read_model_config(folder).get("model_type") in EXACT_FAMILIES:
        yield from write_header(context, converter, folder, target, outtype, name or folder.name)
        header = read_gguf_layout(target)
        work = _placed(folder, header)
        if work is not None:
            yield from _fill(context, target, header, work)
            return
        target.unlink()
    yield from convert(context, converter, folder, target, outtype, name)


@dataclass(frozen=True)
class _Placed:
    """One tensor on its way.

    Attributes:
        stored: Where it lies.
        tensor: What it becomes.
        conversion: What is done to it.
    """

    stored: StoredTensor
    tensor: GgufTensor
    conversion: Conversion


def _placed(folder: Path, header: GgufHeader) -> list[_Placed] | None:
    """Find what each tensor of the file is made of; None where that is not wholly known."""
    names = GgufNames(read_model_config(folder))
    made: dict[str, tuple[str, StoredTensor]] = {}
    for name, stored in StoredTensors.open(folder).by_name.items():
        found = names.of(name)
        if found is not None:
            made[found] = (name, stored)
    work: list[_Placed] = []
    for tensor in header.tensors:
        if tensor.name == ROPE_FACTORS:
            continue  # the converter has written it
        if tensor.name not in made or tensor.dtype not in _TYPES:
            return None
        name, stored = made.pop(tensor.name)
        conversion = names.conversion(name)
        shape = stored.entry.shape[::-1] if not conversion.turned else stored.entry.shape
        if shape != tensor.shape:
            return None
        work.append(_Placed(stored, tensor, conversion))
    return None if made else work


def _fill(context: TaskContext, target: Path, header: GgufHeader, work: list[_Placed]) -> Iterator[RunEvent]:
    total = sum(placed.tensor.bytes for placed in work)
    done = 0
    threads = torch.get_num_threads()
    workers = ThreadPoolExecutor(_WORKERS, "gguf", initializer=lambda: torch.set_num_threads(1))
    with target.open("rb+", buffering=0) as file, workers as pool:
        file.truncate(header.data_start + max((tensor.offset + tensor.bytes for tensor in header.tensors), default=0))
        try:
            for placed, _ in zip(work, pool.map(lambda placed: _put(file, header.data_start, placed), work), strict=True):
                context.control.check()
                done += placed.tensor.bytes
                yield Phase(name="converting", message="Writing the weights", done=done, total=total, unit="bytes")
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def _put(file: IO[bytes], start: int, placed: _Placed) -> None:
    """Write one tensor in its place, some rows at a time, in memory that is taken once."""
    stored, conversion, dtype = placed.stored, placed.conversion, _TYPES[placed.tensor.dtype]
    shape = stored.entry.shape
    width = stored.entry.elements // max(1, shape[0])
    together = conversion.together(shape[0])
    rows = min(shape[0], max(1, _BLOCK_VALUES // max(1, width) // together) * together)
    raw, exact, rounded = (torch.empty(rows, width, dtype=kind) for kind in (stored.dtype, torch.float32, dtype))
    with stored.file.open("rb", buffering=0) as source:
        for first in range(0, shape[0], rows):
            block = raw[: min(rows, shape[0] - first)]
            read_into(source, block, stored.start + first * width * raw.element_size())
            if block.dtype != dtype:  # by way of float32 it is quicker than at once
                block = exact[: block.shape[0]].copy_(block)
            values = rounded.view(-1)[: block.numel()].copy_(conversion.applied(block, together).reshape(-1))
            refuse_overflow(placed.tensor.name, values)
            flat: Any = values.view(torch.uint8).numpy()
            put_at(file, start + placed.tensor.offset + first * width * rounded.element_size(), memoryview(flat))
