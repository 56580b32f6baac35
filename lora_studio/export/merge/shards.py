"""Writing safetensors files of a known layout, tensor by tensor, in any order: each has its place before the first byte is written.

Format: 8 bytes little-endian header length, that much JSON, then the tensors' bytes.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lora_studio.core.files import write_atomically
from lora_studio.models.check import INDEX_NAME
from lora_studio.models.stored_tensors import TORCH_NAMES, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
SAFETENSORS_NAMES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}
_BLOCK = 16 << 20
_CANNOT_COPY = {errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}


@dataclass(frozen=True)
class ShardLayout:
    """A tensor to be written.

    Attributes:
        file: Name of its file.
        dtype: In safetensors' words, such as `BF16`.
        shape: Its sizes.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * _BYTES[self.dtype]


class ShardWriter:
    """Files in a folder whose tensors are put in their places one by one.

    What was written is sent to the disk meanwhile, so that little is left to wait for in the end; that it is there is seen to by the
    folder's rename (`core.files.whole_folder`).
    """

    def __init__(self, folder: Path, layout: Mapping[str, ShardLayout]) -> None:
        """Make the files, with their headers and full sizes.

        Raises:
            OSError: The disk does not take them.
        """
        self._layout = dict(layout)
        self._places: dict[str, int] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._lock = threading.Lock()
        for name in dict.fromkeys(entry.file for entry in layout.values()):
            self._files[name] = self._begin(folder / name, {key: entry for key, entry in layout.items() if entry.file == name})
        if len(self._files) > 1:
            _write_index(folder, layout)

    def __enter__(self) -> ShardWriter:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def write_part(self, name: str, first: int, values: Tensor) -> None:
        """Put some of a tensor's values in their place, beginning with value number `first`; their dtype is the layout's.

        Raises:
            OSError: The disk does not take them.
        """
        import torch

        entry = self._layout[name]
        assert SAFETENSORS_NAMES[str(values.dtype).removeprefix("torch.")] == entry.dtype, name
        flat: Any = values.contiguous().view(-1).view(torch.uint8).numpy()
        self._put(entry.file, self._places[name] + first * _BYTES[entry.dtype], memoryview(flat))

    def copy(self, name: str, stored: StoredTensor) -> None:
        """Take a tensor's bytes over from another file without looking at them.

        Raises:
            OSError: The disk does not take them.
        """
        file = self._layout[name].file
        target = self._files[file]

        def put(place: int, data: memoryview) -> None:
            self._put(file, place, data)

        with stored.file.open("rb", buffering=0) as source:
            _copy_range(source.fileno(), stored.start, target.fileno(), self._places[name], stored.bytes, put)
        begin_sending(target.fileno(), self._places[name], stored.bytes)

    def _begin(self, path: Path, tensors: Mapping[str, ShardLayout]) -> IO[bytes]:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, entry in tensors.items():
            header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [end, end + entry.bytes]}
            end += entry.bytes
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file = path.open("xb", buffering=0)
        file.write(struct.pack("<Q", len(text)) + text)
        begin = 8 + len(text)
        for name, entry in header.items():
            if name != "__metadata__":
                self._places[name] = begin + entry["data_offsets"][0]
        file.truncate(begin + end)
        return file

    def _put(self, file: str, place: int, data: memoryview) -> None:
        with contextlib.nullcontext() if hasattr(os, "pwrite") else self._lock:
            put_at(self._files[file], place, data)


def put_at(file: IO[bytes], place: int, data: memoryview) -> None:
    """Write bytes at a place of an open file, from any thread where the system can, and have them sent to the disk.

    Raises:
        OSError: The disk does not take them.
    """
    begin, size = place, len(data)
    while data and hasattr(os, "pwrite"):
        written = os.pwrite(file.fileno(), data[:_BLOCK], place)
        data, place = data[written:], place + written
    if data:
        file.seek(place)
        file.write(data)
    begin_sending(file.fileno(), begin, size)


def begin_sending(file: int, place: int, size: int) -> None:
    """Have the system begin to write a range to the disk, and not wait: left to itself it makes writers wait once its cache holds too much.

    The advice that a range is not needed starts writing what is not on the disk yet; it stays in the cache until it is.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(file, place, size, os.POSIX_FADV_DONTNEED)


def _write_index(folder: Path, layout: Mapping[str, ShardLayout]) -> None:
    total = sum(entry.bytes for entry in layout.values())
    index = {"metadata": {"total_size": total}, "weight_map": {name: entry.file for name, entry in layout.items()}}
    write_atomically(folder / INDEX_NAME, json.dumps(index, indent=2, ensure_ascii=False) + "\n")


def _copy_range(source: int, start: int, target: int, place: int, size: int, put: Callable[[int, memoryview], None]) -> None:
    """Copy bytes between two open files, inside the system where it can; `put` writes where it cannot."""
    while size and hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, min(size, 1 << 30), start, place)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
            break
        if not copied:
            break
        size, start, place = size - copied, start + copied, place + copied
    while size:
        block = _read_at(source, min(size, _BLOCK), start)
        if not block:
            raise OSError(errno.EIO, "the source ended early")
        put(place, memoryview(block))
        size, start, place = size - len(block), start + len(block), place + len(block)


def _read_at(source: int, size: int, place: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(source, size, place)
    os.lseek(source, place, os.SEEK_SET)
    return os.read(source, size)
