"""Read what a safetensors file says of itself, without torch and without trusting it.

Format: 8 bytes little-endian header length, that much JSON, then the tensors' bytes.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.models.errors import IncompleteModelError

FIELD = "model.name_or_path"
MAX_HEADER_BYTES = 100_000_000  # the reference reader's own limit
_MAX_DIMENSIONS = 16
_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
_AGAIN = "Download or copy the model again."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        dtype: Its type in safetensors' words, such as `BF16`.
        shape: Its sizes.
        start: First byte, counted from the end of the header.
        end: One past its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsHeader:
    """The tensors of one file by name, and its free-form metadata."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a safetensors file.

    Every range is checked against the file's size, so a cut download is found without reading the weights.

    Raises:
        InputError: The file is cut, is not safetensors, or contradicts itself.
    """
    size = path.stat().st_size
    raw, data_bytes = _header_json(path, size)
    raw_metadata: Any = raw.pop("__metadata__", None)
    metadata: dict[Any, Any] = raw_metadata if isinstance(raw_metadata, dict) else {}
    tensors = {name: _entry(path, name, fields) for name, fields in raw.items()}
    _check_ranges(path, tensors, data_bytes)
    return SafetensorsHeader(tensors, {str(key): str(value) for key, value in metadata.items()})


def _header_json(path: Path, size: int) -> tuple[dict[str, Any], int]:
    """Return the header's JSON object and how many bytes of tensors follow it in the file."""
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise IncompleteModelError(f"{path} is cut: it holds {size} bytes.", _AGAIN, FIELD)
        length = int(struct.unpack("<Q", prefix)[0])
        if length > MAX_HEADER_BYTES:
            raise _damaged(path, f"its header claims {length:,} bytes")
        text = file.read(length)
    if len(text) < length:
        raise IncompleteModelError(f"{path} is cut inside its header: {size:,} of at least {length + 8:,} bytes.", _AGAIN, FIELD)
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(raw, dict):
        raise _damaged(path, "its header is not a table of tensors")
    return raw, size - 8 - length


def _entry(path: Path, name: str, fields: Any) -> TensorEntry:
    try:
        dtype, shape, (start, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        numbers_are_sound = len(shape) <= _MAX_DIMENSIONS and all(type(number) is int and number >= 0 for number in (*shape, start, end))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"the entry of {name!r} is malformed") from error
    if not numbers_are_sound or not isinstance(dtype, str) or dtype not in _BITS:
        raise _damaged(path, f"the entry of {name!r} is malformed")
    entry = TensorEntry(dtype, tuple(shape), start, end)
    if (entry.elements * _BITS[dtype] + 7) // 8 != end - start:
        raise _damaged(path, f"{name!r} has shape {list(shape)} but {end - start:,} bytes")
    return entry


def _check_ranges(path: Path, tensors: dict[str, TensorEntry], data_bytes: int) -> None:
    """Refuse ranges that overlap, leave holes, or reach past the end of the file."""
    position = 0
    for entry in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if entry.start != position:
            raise _damaged(path, "its tensors overlap or leave holes")
        position = entry.end
    if position > data_bytes:
        message = f"{path} is cut: {data_bytes:,} of {position:,} bytes of weights are there."
        raise IncompleteModelError(message, _AGAIN, FIELD)
    if position < data_bytes:
        raise _damaged(path, f"{data_bytes - position:,} bytes follow its last tensor")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is not a sound safetensors file: {what}.", _AGAIN, FIELD)
