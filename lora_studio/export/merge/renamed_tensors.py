"""A safetensors file written anew with other names, some of its matrices turned; what its values are is never looked at. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from lora_studio.models.safetensors_header import SafetensorsHeader, TensorEntry, read_header

_WORDS = {"F64": numpy.uint64, "F32": numpy.uint32, "F16": numpy.uint16, "BF16": numpy.uint16}


@dataclass(frozen=True)
class Renamed:
    """One tensor of the new file.

    Attributes:
        name: What it is called there.
        source: What it is called in the old one.
        turned: Whether its two axes change places.
        part: Which of its first axis alone, without that axis; None for all of it.
    """

    name: str
    source: str
    turned: bool = False
    part: int | None = None


def write_renamed(path: Path, to: Path, tensors: Iterable[Renamed], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file's tensors under other names.

    Args:
        path: The old file; of floating-point numbers of 16 bits and more.
        to: The new one.
        tensors: What it is to hold.
        metadata: What its header is to say besides.

    Raises:
        InputError: The old file is damaged.
        OSError: The disk does not take it.
    """
    header = read_header(path)
    old: Any = numpy.memmap(path, dtype=numpy.uint8, mode="r")
    data = old[int.from_bytes(old[:8].tobytes(), "little") + 8 :]
    chosen = list(tensors)
    told = json.dumps({"__metadata__": {"format": "pt", **(metadata or {})}, **_header(header, chosen)}).encode()
    told += b" " * (-len(told) % 8)
    with to.open("xb") as out:
        out.write(len(told).to_bytes(8, "little") + told)
        for tensor in chosen:
            out.write(_values(header.tensors[tensor.source], data, tensor))


def _header(header: SafetensorsHeader, tensors: Sequence[Renamed]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    begin = 0
    for tensor in tensors:
        entry = header.tensors[tensor.source]
        shape = entry.shape if tensor.part is None else entry.shape[1:]
        end = begin + math.prod(shape) * _WORDS[entry.dtype]().itemsize
        found[tensor.name] = {"dtype": entry.dtype, "shape": list(shape[::-1] if tensor.turned else shape), "data_offsets": [begin, end]}
        begin = end
    return found


def _values(entry: TensorEntry, data: Any, tensor: Renamed) -> bytes:
    values = numpy.frombuffer(data[entry.start : entry.end].tobytes(), dtype=_WORDS[entry.dtype]).reshape(entry.shape)
    values = values if tensor.part is None else values[tensor.part]
    return (values.T if tensor.turned else values).tobytes()
