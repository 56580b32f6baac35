"""How a model's folder is quantized, whether its config.json says so or only what lies beside it. Light.

Quanto's own `save_pretrained` leaves config.json as it was and writes `quanto_qmap.json`; others only show by what their tensors are
called.
Source: `QuantizedTransformersModel` in optimum-quanto, `flatten_tensor_state_dict` in torchao, `HQQLinear.state_dict_keys` in hqq.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lora_studio.models.check import read_headers, read_model_config
from lora_studio.models.safetensors_header import SafetensorsHeader
from lora_studio.models.stored_quantization import StoredQuantization, stored_quantization

QUANTO_MAP = "quanto_qmap.json"
_ENDINGS = {
    "._weight_qdata": ("torchao", "TorchAO"),
    ".weight._data": ("quanto", "Quanto"),
    ".W_q": ("hqq", "HQQ"),
    ".qweight": ("gptq or awq", "GPTQ or AWQ of which config.json says nothing"),
}
"""What names of packed weights end in: the method, and what it is called."""


def folder_quantization(
    folder: Path, config: Mapping[str, Any] | None = None, headers: Mapping[Path, SafetensorsHeader] | None = None
) -> StoredQuantization | None:
    """Say how the weights of a model's folder are quantized; None where they are not.

    Args:
        folder: The folder; one with only config.json will do.
        config: Its config.json, where that was read already.
        headers: Those of its weight files, where they were read already.

    Raises:
        InputError: It is no model, or a weight file is damaged.
    """
    found = stored_quantization(read_model_config(folder) if config is None else config)
    if found is not None:
        return found
    if (folder / QUANTO_MAP).is_file():
        return _unsaid("quanto", "Quanto", f"{QUANTO_MAP} lies beside it")
    known = read_headers(folder) if headers is None else headers
    return _by_names(name for header in known.values() for name in header.tensors)


def _by_names(names: Iterable[str]) -> StoredQuantization | None:
    endings = tuple(_ENDINGS)
    packed = next((name for name in names if name.endswith(endings)), "")
    method, said = next((told for ending, told in _ENDINGS.items() if packed.endswith(ending)), ("", "")) if packed else ("", "")
    return _unsaid(method, said, f"it has a tensor {packed}") if packed else None


def _unsaid(method: str, said: str, seen: str) -> StoredQuantization:
    unread = f"weights quantized by {said} are not read here ({seen})"
    return StoredQuantization(method, said, unread=unread)
