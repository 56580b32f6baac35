"""Read what a GGUF file says of itself: its settings and its tensors' names, types and shapes. No numpy, no weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from lora_studio.core.errors import InputError

FIELD = "model.name_or_path"
_MAX_ENTRIES = 1_000_000
_MAX_STRING = 16_000_000
_MAX_ARRAY = 16_000_000
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}

TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Name, elements a block and bytes a block by a type's number (ggml's type traits)."""

Value = str | int | float | bool


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file; `shape` is in ggml's order, the fastest dimension first, `offset` from the data's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    offset: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """A GGUF file's settings (arrays by their length alone), its tensors, and the byte their data starts at."""

    settings: dict[str, Value]
    array_lengths: dict[str, int]
    tensors: tuple[GgufTensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        """llama.cpp's word for the family, such as `llama`."""
        return str(self.settings.get("general.architecture", ""))

    def number(self, key: str) -> int:
        """Return a whole number from the architecture's own settings, such as `block_count`; 0 where it says nothing."""
        value = self.settings.get(f"{self.architecture}.{key}", 0)
        return int(value) if isinstance(value, int | float) else 0


def read_gguf(path: Path) -> GgufHeader:
    """Read a GGUF file's header and check that its tensors fit the file.

    Raises:
        InputError: It is not GGUF, of an unknown version, damaged, or cut.
    """
    status = path.stat()
    return _read_unchanged(path, status.st_size, status.st_mtime_ns)


def read_gguf_layout(path: Path) -> GgufHeader:
    """Read the header of a GGUF file whose tensors are not written yet.

    Raises:
        InputError: It is not GGUF, of an unknown version, or damaged.
    """
    return _read_header(path)


def read_gguf_arrays(path: Path, *names: str) -> list[list[Value]]:
    """Read arrays of a GGUF file's settings, such as its vocabulary; one that the file does not have is empty.

    Raises:
        InputError: It is not GGUF, of an unknown version, or damaged.
    """
    arrays: dict[str, list[Value]] = {name: [] for name in names}
    _read_header(path, arrays)
    return [arrays[name] for name in names]


@lru_cache(maxsize=4)  # a vocabulary takes a tenth of a second, and source and facts are asked one after the other
def _read_unchanged(path: Path, size: int, _modified: int) -> GgufHeader:
    header = _read_header(path)
    needed = max((header.data_start + tensor.offset + tensor.bytes for tensor in header.tensors), default=0)
    if needed > size:
        raise InputError(f"{path} is cut: {size:,} of {needed:,} bytes are there.", "Download or copy the file again.", FIELD)
    return header


def _read_header(path: Path, wanted: dict[str, list[Value]] | None = None) -> GgufHeader:
    """Read a header; the arrays whose names `wanted` has are put into it, the others passed over."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file.", "Choose another file: a GGUF file starts with these four letters.", FIELD)
        try:
            return _read_body(path, file, wanted or {})
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise InputError(f"{path} is cut or damaged inside its header.", "Download or copy the file again.", FIELD) from error


def _read_body(path: Path, file: BinaryIO, wanted: dict[str, list[Value]]) -> GgufHeader:
    version, tensor_count, setting_count = struct.unpack("<IQQ", file.read(20))
    if version not in (2, 3):
        hint = "LoRA Studio reads versions 2 and 3, little-endian: convert the model again."
        raise InputError(f"{path} is GGUF version {version}.", hint, FIELD)
    if max(tensor_count, setting_count) > _MAX_ENTRIES:
        raise InputError(f"{path} claims {max(tensor_count, setting_count):,} entries.", "The file is damaged: download it again.", FIELD)
    settings: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(setting_count):
        key = _string(file)
        kind = _number(file, "<I")
        if kind == _ARRAY and key in wanted:
            wanted[key] = _array(file)
            lengths[key] = len(wanted[key])
        elif kind == _ARRAY:
            lengths[key] = _pass_over_array(file)
        else:
            settings[key] = _scalar(file, int(kind))
    tensors = tuple(_tensor(path, file) for _ in range(tensor_count))
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise InputError(f"{path} has alignment {alignment}.", "The file is damaged: download it again.", FIELD)
    return GgufHeader(settings, lengths, tensors, data_start=-(-file.tell() // alignment) * alignment)


def _number(file: BinaryIO, form: str) -> int | float | bool:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    length = int(_number(file, "<Q"))
    if length > _MAX_STRING:
        raise OverflowError(length)
    raw = file.read(length)
    if len(raw) < length:
        raise OverflowError(length)
    return raw.decode("utf-8", "replace")


def _scalar(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind not in _NUMBERS:
        raise OverflowError(kind)
    return _number(file, _NUMBERS[kind])


def _array(file: BinaryIO) -> list[Value]:
    kind, length = _array_size(file)
    return [_scalar(file, kind) for _ in range(length)]


def _array_size(file: BinaryIO) -> tuple[int, int]:
    """Read of what type an array's elements are, and how many there are."""
    kind, length = int(_number(file, "<I")), int(_number(file, "<Q"))
    if length > _MAX_ARRAY:
        raise OverflowError(length)
    return kind, length


def _pass_over_array(file: BinaryIO) -> int:
    """Skip an array and give its length; a vocabulary's strings are passed over without being kept."""
    kind, length = _array_size(file)
    if kind == _STRING:
        for _ in range(length):
            size = int(_number(file, "<Q"))
            if size > _MAX_STRING:
                raise OverflowError(size)
            file.seek(size, io.SEEK_CUR)
    elif kind in _NUMBERS:
        file.seek(length * struct.calcsize(_NUMBERS[kind]), io.SEEK_CUR)
    else:
        raise OverflowError(kind)  # arrays of arrays are allowed by the format and used by no model
    return length


def _tensor(path: Path, file: BinaryIO) -> GgufTensor:
    name = _string(file)
    dimensions = int(_number(file, "<I"))
    if dimensions > 8:
        raise OverflowError(dimensions)
    shape = tuple(int(_number(file, "<Q")) for _ in range(dimensions))
    kind, offset = int(_number(file, "<I")), int(_number(file, "<Q"))
    if kind not in TENSOR_TYPES:
        message = f"{path} stores {name} as type {kind}, which is not known."
        raise InputError(message, "Choose a file of a common type, such as Q8_0 or F16.", FIELD)
    dtype, block, block_bytes = TENSOR_TYPES[kind]
    return GgufTensor(name, dtype, shape, math.prod(shape) // block * block_bytes, offset)
