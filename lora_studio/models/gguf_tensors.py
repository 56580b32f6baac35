"""The numbers in a GGUF file, mapped as they stand or unpacked.

gguf's own reader makes an array of each word of the vocabulary first: 2 s for 49,152 words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lora_studio.models.gguf_header import GgufHeader, GgufTensor

_PLAIN = {"F32": np.float32, "F16": np.float16, "F64": np.float64}


def map_tensor(file: Path, header: GgufHeader, tensor: GgufTensor) -> Any:
    """Map a tensor as it is stored, in torch's order of dimensions: as numbers where numpy has the type, else the bytes of each row."""
    shape = tuple(reversed(tensor.shape))
    raw: Any = np.memmap(file, np.uint8, "r", header.data_start + tensor.offset, (tensor.bytes,))
    if tensor.dtype in _PLAIN:
        return raw.view(_PLAIN[tensor.dtype]).reshape(shape)
    return raw.reshape(*shape[:-1], tensor.bytes * shape[-1] // max(1, tensor.elements))


def unpack(stored: Any, dtype: str) -> Any:
    """Return what `map_tensor` gave of a tensor, or some of its rows, as numbers: quantized ones in float32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return stored if dtype in _PLAIN else dequantize(stored, GGMLQuantizationType[dtype])
