from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.errors import InputError
from lora_studio.models.gguf_header import read_gguf
from lora_studio.models.safetensors_header import read_header


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def test_header_gives_names_shapes_and_metadata(tmp_path: Path) -> None:
    content = {"__metadata__": {"format": "pt"}, "a": tensor(0, 24, [2, 3]), "b": tensor(24, 32)}
    header = read_header(write(tmp_path / "w", content, bytes(32)))
    assert (header.tensors["a"].shape, header.tensors["a"].elements, header.tensors["b"].elements) == ((2, 3), 6, 2)
    assert header.metadata == {"format": "pt"}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"{}", b"", 1 << 60),
        (b"not json", b"", None),
        (b"[1]", b"", None),
        (b"[" * 1_500, b"", None),
        ({"a": {"dtype": "F32"}}, b"", None),
        ({"a": tensor(0, 8, [3])}, bytes(8), None),
        ({"a": tensor(0, 8, [-2])}, bytes(8), None),
        ({"a": tensor(0, 8, [2.0])}, bytes(8), None),
        ({"a": tensor(0, 8, [True, 2])}, bytes(8), None),
        ({"a": tensor(0, 8, dtype="X99")}, bytes(8), None),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12), None),
        ({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20), None),
        ({"a": tensor(4, 12)}, bytes(12), None),
        ({"a": tensor(0, 8)}, bytes(12), None),
        ({"a": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}}, bytes(4), None),
    ],
)
def test_header_that_contradicts_itself_is_refused(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    with pytest.raises(InputError, match="not a sound safetensors file"):
        read_header(write(tmp_path / "w", header, data, length))


def test_missing_bytes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is cut: 12 of 16 bytes"):
        read_header(write(tmp_path / "w", {"a": tensor(0, 16)}, bytes(12)))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04", "is not a GGUF file"),
        (b"GGUF\x03", "cut or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62), "cut or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99), "cut or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50), "cut or damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<IQIQ", 1, 32, 77, 0), "type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("w") + struct.pack("<IQIQ", 1, 1 << 20, 0, 0), "is cut"),
    ],
)
def test_damaged_gguf_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_gguf(tmp_path / "x.gguf")
