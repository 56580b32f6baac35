"""A written GGUF model read again: its weights against the model it was made from, its vocabulary, template and end token."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lora_studio.export.gguf.llama_families import EXACT_FAMILIES
from lora_studio.export.gguf.names import ROPE_FACTORS, Conversion, GgufNames
from lora_studio.models.check import read_model_config
from lora_studio.models.gguf_header import GgufTensor, read_gguf
from lora_studio.models.gguf_tensors import map_tensor, unpack
from lora_studio.models.stored_tensors import StoredTensor, StoredTensors, read_range

if TYPE_CHECKING:
    from torch import Tensor

    from lora_studio.export.verify.tokenizer_files import TokenizerFiles

_ROUNDED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK_VALUES = 1 << 20
_MOST_LOST = 0.5  # of a weight's size; the coarsest type in use loses a fifth


@dataclass
class GgufReport:
    """What was found in a file's weights.

    Attributes:
        checked: Tensors recomputed; 0 for families whose conversion is not known tensor by tensor.
        wrong: Names of those that are not what they should be.
        size: ‖weights‖² over all of them, as they should be before rounding.
        lost: ‖written − weights‖².
    """

    checked: int = 0
    wrong: list[str] = field(default_factory=list[str])
    size: float = 0.0
    lost: float = 0.0

    @property
    def weights_lost(self) -> float:
        """‖written − weights‖ / ‖weights‖."""
        return math.sqrt(self.lost / self.size) if self.size else 0.0


def can_recompute(folder: Path) -> bool:
    """Return whether each tensor of a model's GGUF file can be recomputed."""
    return read_model_config(folder).get("model_type") in EXACT_FAMILIES


def check_gguf_tensors(folder: Path, file: Path) -> GgufReport:
    """Recompute every tensor of a GGUF file from the model's folder, some rows at a time.

    Plain types must be the rounding bit for bit; of quantized ones the error is told, and nothing may be lost beyond what the coarsest
    type loses.
    """
    report = GgufReport()
    if not can_recompute(folder):
        return report
    names = GgufNames(read_model_config(folder))
    stored = StoredTensors.open(folder)
    sources = {names.of(name): name for name in stored.by_name}
    factors = rope_factors(folder)
    header = read_gguf(file)
    with _one_thread():
        for tensor in header.tensors:
            report.checked += 1
            source = sources.pop(tensor.name, None)
            data = map_tensor(file, header, tensor)
            if tensor.name == ROPE_FACTORS and factors is not None:
                right, factors = _are_close(data, factors), None
            else:
                right = source is not None and _is_right(tensor, data, stored.by_name[source], names.conversion(source), report)
            if not right:
                report.wrong.append(tensor.name)
    report.wrong.extend(str(name) for name in sources if name is not None)
    report.wrong.extend([] if factors is None else [ROPE_FACTORS])
    return report


@contextmanager
def _one_thread() -> Generator[None]:
    """Have torch compute in one thread: over small blocks several spend their time in waiting, on a busy machine seven times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def rope_factors(folder: Path) -> Tensor | None:
    """Return what Llama 3 divides its rotary frequencies by, from what transformers makes of them; None for models without such factors."""
    from transformers import AutoConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config: Any = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    settings: Any = getattr(config, "rope_parameters", None) or {}
    if settings.get("rope_type") != "llama3":
        return None
    scaled: Tensor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    places = torch.arange(len(scaled), dtype=torch.float32) / len(scaled)
    return 1.0 / settings["rope_theta"] ** places / scaled


def _are_close(data: Any, expected: Tensor) -> bool:
    found = torch.from_numpy(data.copy())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-5, atol=0.0)


def _is_right(tensor: GgufTensor, data: Any, stored: StoredTensor, conversion: Conversion, report: GgufReport) -> bool:
    """Compare a written tensor with what it was made from, and add what it lost to the report."""
    shape = stored.entry.shape if conversion.turned else stored.entry.shape[::-1]
    if tensor.shape != shape:
        return False
    dtype = _ROUNDED.get(tensor.dtype)
    same, lost, size = True, 0.0, 0.0
    for expected, found in _blocks(data, tensor.dtype, stored, conversion):
        same = same and dtype is not None and torch.equal(found, expected.to(dtype))
        size += float(torch.linalg.vector_norm(expected)) ** 2
        lost += float(torch.linalg.vector_norm(expected.sub_(found.float()))) ** 2
    report.lost, report.size = report.lost + lost, report.size + size
    return same if dtype is not None else lost <= (_MOST_LOST**2) * size


def _blocks(data: Any, dtype: str, stored: StoredTensor, conversion: Conversion) -> Iterator[tuple[Tensor, Tensor]]:
    """Return some rows after the others: in float32 as they should be, and as they are in the file."""
    all_rows, *others = stored.entry.shape
    width = math.prod(others)
    together = conversion.together(all_rows)
    rows = max(1, _BLOCK_VALUES // max(1, width) // together) * together if others else all_rows
    for first in range(0, all_rows, rows):
        count = min(rows, all_rows - first)
        block = read_range(stored.file, stored.start + first * width * stored.dtype.itemsize, (count, *others), stored.dtype)
        expected = conversion.applied(block.float(), together).contiguous()
        written = data if count == all_rows else data[first : first + count]
        yield expected, _as_stored(written, dtype).reshape(expected.shape)


def _as_stored(data: Any, dtype: str) -> Tensor:
    """Return values as they are stored, quantized ones in float32."""
    if dtype in _ROUNDED:
        return torch.from_numpy(data.copy()).view(_ROUNDED[dtype])
    return torch.from_numpy(unpack(data, dtype))


def gguf_tokenizer_fault(file: Path, tokenizer_files: TokenizerFiles) -> str:
    """Say what is wrong with a GGUF model's vocabulary, chat template or end token; empty when nothing is."""
    header = read_gguf(file)
    template = str(header.settings.get("tokenizer.chat_template", ""))
    if tokenizer_files.template and template != tokenizer_files.template:
        return f"it does not carry {tokenizer_files.template_from}"
    end = header.settings.get("tokenizer.ggml.eos_token_id")
    if tokenizer_files.end_ids and end not in tokenizer_files.end_ids:
        return f"it ends at the token {end}, the base at {list(tokenizer_files.end_ids)}"
    if header.array_lengths.get("tokenizer.ggml.tokens", 0) < len(tokenizer_files.tokenizer):
        return "its vocabulary is smaller than the base's"
    return ""
