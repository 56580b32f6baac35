"""Which tensors of a quantized folder are parts of which weight, and what that weight's shape is. Light.

Sources: transformers' `serialized_names` of each quantizer; GPTQModel's `nn_modules/qlinear`; compressed-tensors' `compressors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lora_studio.core.errors import InputError
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.safetensors_header import FIELD, TensorEntry
from lora_studio.models.stored_quantization import StoredQuantization
from lora_studio.models.stored_tensors import StoredTensors

_ONE_BYTE = ("F8_E4M3", "F8_E5M2", "I8", "U8", "F4")
_WORD_BITS = 32
_AGAIN = "Download or copy the model again."
# What stands beside weights for those who compute with them packed: no weights of the model.
_HELPERS = (
    "activation_scale",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
    "output_scale",
    "output_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "weight_global_scale",
    "input_scale_ub",
    "weight_format",
)


@dataclass(frozen=True)
class PackedWeight:
    """A weight that lies in parts.

    Attributes:
        name: What it is called in a folder in full precision.
        parts: Names on disk, by what each is.
        shape: Its own: out × in of a linear layer, whatever way round the family holds it.
    """

    name: str
    parts: Mapping[str, str]
    shape: tuple[int, ...]


def packed_weights(stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    """Find the weights that lie packed, by the name each would have in full precision.

    Args:
        stored: How the folder is quantized.
        tensors: Its tensors as they lie there.

    Raises:
        IncompleteModelError: A part is missing.
        InputError: Parts do not fit each other.
    """
    return _FINDERS[stored.layout](stored, tensors) if stored.layout else {}


def helper_names(stored: StoredQuantization, tensors: StoredTensors) -> frozenset[str]:
    """Name the tensors that are no weights of the model: scales of activations and the like."""
    if stored.layout in ("", "gptq", "awq", "mxfp4"):
        return frozenset()
    return frozenset(name for name in tensors.by_name if name.endswith(_HELPERS))


def _ending(tensors: StoredTensors, ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in tensors.by_name if name.endswith(ending)]


def _need(tensors: StoredTensors, names: Mapping[str, str], optional: Mapping[str, str]) -> dict[str, str]:
    """Return the parts that are there.

    Raises:
        IncompleteModelError: One that must be is not.
    """
    for name in names.values():
        if name not in tensors.by_name:
            raise IncompleteModelError(f"{tensors.folder} lacks {name}, a part of a quantized weight.", _AGAIN, FIELD)
    return {**names, **{role: name for role, name in optional.items() if name in tensors.by_name}}


def _entry(tensors: StoredTensors, name: str) -> TensorEntry:
    return tensors.by_name[name].entry


def _bnb4(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for kind in ("nf4", "fp4"):
        ending = f".quant_state.bitsandbytes__{kind}"
        for name in _ending(tensors, ending):
            optional = {part: f"{name}.{part}" for part in ("nested_absmax", "nested_quant_map")}
            needed = {"weight": name, "absmax": f"{name}.absmax", "quant_map": f"{name}.quant_map", "quant_state": f"{name}{ending}"}
            parts = _need(tensors, needed, optional)
            found[name] = PackedWeight(name, parts, _shape_in_state(tensors, parts["quant_state"]))
    return found


def _shape_in_state(tensors: StoredTensors, name: str) -> tuple[int, ...]:
    """Read the shape that bitsandbytes keeps, as JSON, beside a weight packed in 4 bits."""
    try:
        return tuple(int(size) for size in json.loads(tensors.raw(name))["shape"])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{tensors.folder} has no shape in {name}.", _AGAIN, FIELD) from error


def _bnb8(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for module in _ending(tensors, ".SCB"):
        parts = _need(tensors, {"weight": f"{module}.weight", "SCB": f"{module}.SCB"}, {})
        found[f"{module}.weight"] = PackedWeight(f"{module}.weight", parts, _entry(tensors, parts["weight"]).shape)
    return found


def _gptq(stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for module in _ending(tensors, ".qweight"):
        needed = {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales")}
        parts = _need(tensors, needed, {"g_idx": f"{module}.g_idx"})
        words, columns = _entry(tensors, parts["qweight"]).shape
        rows = _entry(tensors, parts["g_idx"]).elements if "g_idx" in parts else words * _WORD_BITS // int(stored.settings["bits"])
        found[f"{module}.weight"] = PackedWeight(f"{module}.weight", parts, (columns, rows))
    return found


def _awq(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for module in _ending(tensors, ".qweight"):
        parts = _need(tensors, {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales")}, {})
        rows = _entry(tensors, parts["qweight"]).shape[0]
        found[f"{module}.weight"] = PackedWeight(f"{module}.weight", parts, (_entry(tensors, parts["scales"]).shape[1], rows))
    return found


def _fp8(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    """Find weights of one byte, or of two numbers a byte, with a scale beside them."""
    found: dict[str, PackedWeight] = {}
    for name, tensor in tensors.by_name.items():
        scale = next((scale for scale in _scale_names(name) if scale in tensors.by_name), "")
        if tensor.entry.dtype not in _ONE_BYTE or not scale:
            continue
        *rest, columns = tensor.entry.shape
        twice = 1 if tensor.entry.dtype.startswith("F8") else 2
        found[name] = PackedWeight(name, {"weight": name, "scale": scale}, (*rest, columns * twice))
    return found


def _scale_names(name: str) -> tuple[str, ...]:
    module = name.removesuffix(".weight")
    return (f"{name}_scale_inv", f"{name}_scale", *((f"{module}.scale", f"{module}.qscale_weight") if module != name else ()))


def _mxfp4(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    """Find experts of gpt-oss: blocks of 32 numbers in 16 bytes, laid out as experts × out × in, and held as experts × in × out."""
    found: dict[str, PackedWeight] = {}
    for name in _ending(tensors, "_blocks"):
        parts = _need(tensors, {"blocks": f"{name}_blocks", "scales": f"{name}_scales"}, {})
        experts, out, blocks, size = _entry(tensors, parts["blocks"]).shape
        found[name] = PackedWeight(name, parts, (experts, 2 * blocks * size, out))
    return found


def _compressed(_stored: StoredQuantization, tensors: StoredTensors) -> dict[str, PackedWeight]:
    found: dict[str, PackedWeight] = {}
    for name in _ending(tensors, "_packed"):
        optional = {role: f"{name}_{role}" for role in ("zero_point", "g_idx", "global_scale", "shape")}
        parts = _need(tensors, {"packed": f"{name}_packed", "scale": f"{name}_scale"}, optional)
        found[name] = PackedWeight(name, parts, _packed_shape(tensors, parts))
    for name, tensor in tensors.by_name.items():
        if tensor.entry.dtype in _ONE_BYTE and f"{name}_scale" in tensors.by_name:
            parts = _need(tensors, {"weight": name, "scale": f"{name}_scale"}, {"zero_point": f"{name}_zero_point"})
            found[name] = PackedWeight(name, parts, tensor.entry.shape)
    return found


def _packed_shape(tensors: StoredTensors, parts: Mapping[str, str]) -> tuple[int, ...]:
    entry = _entry(tensors, parts["packed"])
    *rest, columns = entry.shape
    if "shape" not in parts:  # two numbers of four bits a byte
        return (*rest, 2 * columns)
    size = 8 if _entry(tensors, parts["shape"]).dtype == "I64" else 4
    raw = tensors.raw(parts["shape"])
    return tuple(int.from_bytes(raw[start : start + size], "little") for start in range(0, len(raw), size))


_FINDERS: dict[str, Callable[[StoredQuantization, StoredTensors], dict[str, PackedWeight]]] = {
    "bnb4": _bnb4,
    "bnb8": _bnb8,
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "compressed": _compressed,
}
