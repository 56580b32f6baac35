"""A model's tensors in its safetensors files, read one at a time into memory of their own: nothing is mapped, so nothing else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.models.check import read_headers
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.safetensors_header import FIELD, SafetensorsHeader, TensorEntry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BLOCK = 64 << 20
TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""torch's name of each dtype that is read, by safetensors' name."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file.

    Attributes:
        file: The file.
        entry: Its dtype, shape and place among the tensors.
        start: Its first byte in the file.
    """

    file: Path
    entry: TensorEntry
    start: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.entry.end - self.entry.start

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype in torch.

        Raises:
            InputError: torch has none like it.
        """
        import torch

        if self.entry.dtype not in TORCH_NAMES:
            raise InputError(f"{self.file} has weights as {self.entry.dtype}, which is not read here.", "Choose another model.", FIELD)
        return getattr(torch, TORCH_NAMES[self.entry.dtype])


class StoredTensors:
    """All tensors of one folder, by name, in the order of their files and places.

    Attributes:
        folder: The folder.
        headers: Header of each file.
        unpacked: Names of the tensors that are not read as they lie there, but unpacked.
    """

    unpacked: frozenset[str] = frozenset()

    def __init__(self, folder: Path, headers: Mapping[Path, SafetensorsHeader]) -> None:
        """Take headers that were read; `open` reads them."""
        self.folder = folder
        self.headers = headers

    @classmethod
    def open(cls, folder: Path) -> StoredTensors:
        """Read the headers of a model's folder.

        Raises:
            InputError: It has no safetensors weights, or damaged or pickled ones.
        """
        headers = read_headers(folder)
        if not headers:
            raise InputError(f"{folder} has no weights.", "Put the model's *.safetensors files beside config.json.", FIELD)
        return cls(folder, headers)

    @cached_property
    def by_name(self) -> dict[str, StoredTensor]:
        """Find a tensor."""
        found: dict[str, StoredTensor] = {}
        for file, header in self.headers.items():
            begin = file.stat().st_size - max((entry.end for entry in header.tensors.values()), default=0)
            for name, entry in sorted(header.tensors.items(), key=lambda item: item[1].start):
                found[name] = StoredTensor(file, entry, begin + entry.start)
        return found

    def read(self, name: str) -> Tensor:
        """Read a tensor as it lies there.

        Raises:
            InputError: The file is shorter than it was, or its dtype is not read here.
        """
        stored = self.by_name[name]
        return read_range(stored.file, stored.start, stored.entry.shape, stored.dtype)

    def raw(self, name: str) -> bytes:
        """Read the bytes of a small tensor, without torch."""
        stored = self.by_name[name]
        with stored.file.open("rb") as source:
            source.seek(stored.start)
            return source.read(stored.bytes)


def read_range(file: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read a tensor that begins at a byte of a file.

    Raises:
        InputError: The file ends before it does.
    """
    import torch

    tensor = torch.empty(shape, dtype=dtype)
    flat: Any = tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else bytearray()
    room = memoryview(flat)
    with file.open("rb", buffering=0) as source:
        source.seek(start)
        done = 0
        while done < len(room):
            got = source.readinto(room[done : done + _BLOCK])
            if not got:
                raise IncompleteModelError(f"{file} is cut: it ends inside its weights.", "Download or copy the model again.", FIELD)
            done += got
    return tensor
