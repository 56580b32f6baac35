"""Folders whose weights are quantized already: by what, whether that is read here, and what it needs. Light.

Weights of bitsandbytes stay packed in memory, since its layers train everywhere. All others are unpacked as they are read: what
computes with them packed gives no gradients, or only on some cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from lora_studio.core.findings import Finding
from lora_studio.models.quantization import DEVICES, INSTALL, NONE
from lora_studio.models.quantization import FIELD as QUANTIZATION_FIELD
from lora_studio.models.safetensors_header import FIELD

PackedLayout = Literal["", "bnb4", "bnb8", "gptq", "awq", "fp8", "mxfp4", "compressed"]
_KEYS = ("quantization_config", "compression_config")
_GPTQ_BITS = (2, 3, 4, 8)
_NO_WORD = "unknown"
_REFUSED_FORMATS = ("sparse", "marlin", "bitmask")


@dataclass(frozen=True)
class StoredQuantization:
    """How a folder's weights are quantized.

    Attributes:
        method: `quant_method` of its config.
        said: The same in words, such as "4 bits (NF4)".
        layout: How the weights lie in the files; empty where that is not read here.
        unread: Why it is not read here; empty where it is.
        settings: The config's own.
        packed: Bytes of each weight that stays packed in memory, by the name of its module on disk; empty where the files are not here.
        full_precision: What the model in full precision seems to be called; empty where nothing tells.
    """

    method: str
    said: str
    layout: PackedLayout = ""
    unread: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    packed: Mapping[str, int] = field(default_factory=dict[str, int])
    full_precision: str = ""

    @property
    def stays_packed(self) -> bool:
        """Whether the weights are held in memory as they lie in the files."""
        return self.layout in ("bnb4", "bnb8")


def stored_quantization(config: Mapping[str, Any]) -> StoredQuantization | None:
    """Say how the weights are quantized that a config.json speaks of; None where they are not.

    Args:
        config: The file's contents.
    """
    settings = _settings(config)
    if settings is None:
        return None
    method = str(settings.get("quant_method") or ("bitsandbytes" if _is_old_bitsandbytes(settings) else _NO_WORD))
    reader = _READERS.get(method.removesuffix("_4bit").removesuffix("_8bit"))
    if reader is None:
        return StoredQuantization(method, method, unread=f"weights quantized by {method} are not read here", settings=settings)
    said, layout, unread = reader(settings)
    return StoredQuantization(method, said, "" if unread else layout, unread, settings)


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the same model in full precision."""
    kept = {key: value for key, value in config.items() if key not in _KEYS}
    inner = kept.get("text_config")
    return {**kept, "text_config": without_quantization(inner)} if isinstance(inner, dict) else kept


def stored_finding(stored: StoredQuantization | None, quantization: str, device: str) -> Finding | None:
    """Say why a model that is quantized already cannot be loaded so; None where it can, or is not quantized.

    Args:
        stored: How its weights are quantized.
        quantization: `model.quantization`.
        device: Kind of the device: cuda, mps or cpu.
    """
    if stored is None:
        return None
    instead = f"Choose the model in full precision{f', {stored.full_precision}' if stored.full_precision else ''}"
    if stored.unread:
        return Finding("error", "quantized_unread", f"The base model is quantized already: {stored.unread}.", f"{instead}.", FIELD)
    if not stored.stays_packed:
        return None
    if quantization != NONE:
        message = f"The base model's weights are in {stored.said} already."
        return Finding("error", "quantized_twice", message, "Set quantization to none: they are held as they are.", QUANTIZATION_FIELD)
    if find_spec("bitsandbytes") is None:
        message = f"The base model's weights are in {stored.said} by bitsandbytes, a package which is not installed."
        return Finding("error", "quantization_missing", message, f"Install it: {INSTALL}. Or {instead[0].lower()}{instead[1:]}.", FIELD)
    if device not in DEVICES:
        message = f"The base model's weights are in {stored.said}, which are computed with on CUDA and on the CPU, not on {device}."
        return Finding("error", "quantization_device", message, f"Set device to cpu. Or {instead[0].lower()}{instead[1:]}.", FIELD)
    return None


def stored_note(stored: StoredQuantization | None, quantization: str, dtype: str, weight_bytes: int) -> Finding | None:
    """Say what becomes of a quantized model's weights in memory; None where nothing is to be said.

    Args:
        stored: How they are quantized.
        quantization: `model.quantization`.
        dtype: What they are unpacked to.
        weight_bytes: What all weights weigh in memory.
    """
    if stored is None or not stored.layout:
        return None
    size = f"{weight_bytes / 1e9:.2g} GB" if weight_bytes >= 1e8 else f"{weight_bytes / 1e6:.2g} MB"
    if stored.stays_packed:
        message = f"The base model is held in {stored.said}, as it lies in its files: {size}."
        return Finding("note", "quantized_base", message, "A merge goes into full precision: unpacked, or the original.", FIELD)
    package = _PACKAGES.get(stored.layout)
    hint = f"Computing with them packed, as the package {package} does, is not done here, so it is not needed." if package else ""
    unpacked = dtype if quantization == NONE else f"full precision and held as {quantization}"
    message = f"The base model's weights are in {stored.said}; they are unpacked to {unpacked} as they are read: {size} in memory."
    return Finding("note", "quantized_base", message, hint, FIELD)


_PACKAGES = {"gptq": "gptqmodel", "awq": "gptqmodel", "compressed": "compressed-tensors"}
_Read = tuple[str, PackedLayout, str]


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find a config's table on quantization, its own or that of its text model."""
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, dict) else {}):
        for key in _KEYS:
            found = table.get(key)
            if isinstance(found, dict) and found:
                return found
            if found:
                return {"quant_method": _NO_WORD}
    return None


def _is_old_bitsandbytes(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("load_in_4bit") or settings.get("load_in_8bit"))


def _bitsandbytes(settings: Mapping[str, Any]) -> _Read:
    if settings.get("load_in_8bit"):
        return "8 bits", "bnb8", ""
    kind = str(settings.get("bnb_4bit_quant_type") or "fp4").upper()
    if settings.get("load_in_4bit"):
        return f"4 bits ({kind})", "bnb4", ""
    return "bitsandbytes", "", "its quantization_config says neither load_in_4bit nor load_in_8bit"


def _gptq(settings: Mapping[str, Any]) -> _Read:
    bits, form = settings.get("bits"), str(settings.get("checkpoint_format") or settings.get("format") or "gptq")
    said = f"{bits} bits (GPTQ)"
    if bits not in _GPTQ_BITS:
        return said, "", f"GPTQ is read in {', '.join(map(str, _GPTQ_BITS))} bits, not in {bits}"
    if form not in ("gptq", "gptq_v2"):
        return said, "", f"GPTQ laid out as {form} is not read here"
    if str(settings.get("pack_dtype") or "int32") != "int32":
        return said, "", f"GPTQ packed into {settings['pack_dtype']} is not read here"
    return said, "gptq", ""


def _awq(settings: Mapping[str, Any]) -> _Read:
    bits = settings.get("bits") or settings.get("w_bit")
    form = str(settings.get("version") or settings.get("format") or "gemm").lower()
    said = f"{bits} bits (AWQ)"
    if bits != 4 or form != "gemm":
        return said, "", f"AWQ is read in 4 bits laid out as gemm, not in {bits} bits as {form}"
    return said, "awq", ""


def _auto_round(settings: Mapping[str, Any]) -> _Read:
    form = str(settings.get("packing_format") or "")
    if "gptq" in form:
        return _gptq({"bits": settings.get("bits")})
    if "awq" in form:
        return _awq({"bits": settings.get("bits")})
    return "AutoRound", "", f"AutoRound laid out as {form or 'its own format'} is not read here"


def _fp8(_settings: Mapping[str, Any]) -> _Read:
    return "8 bits (FP8)", "fp8", ""


def _mxfp4(_settings: Mapping[str, Any]) -> _Read:
    return "4 bits (MXFP4)", "mxfp4", ""


def _compressed(settings: Mapping[str, Any]) -> _Read:
    groups: Any = settings.get("config_groups") or {}
    weights: list[Any] = [group.get("weights") for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    kinds = sorted({f"{'FP' if one.get('type') == 'float' else 'INT'}{one.get('num_bits')}" for one in weights if isinstance(one, dict)})
    bits = " and ".join(sorted({str(one.get("num_bits")) for one in weights if isinstance(one, dict)})) or "fewer"
    said = f"{bits} bits ({', '.join(['compressed-tensors', *kinds])})"
    form, sparse = str(settings.get("format") or ""), settings.get("sparsity_config") or {}
    sparse_form = str(sparse.get("format") or "dense") if isinstance(sparse, dict) else _NO_WORD
    if any(word in name for word in _REFUSED_FORMATS for name in (form, sparse_form)):
        return said, "", f"weights that are sparse, as {sparse_form if sparse_form != 'dense' else form}, are not read here"
    if settings.get("transform_config"):
        return said, "", "weights turned by compressed-tensors' transforms are not read here"
    odd = sorted({int(one["num_bits"]) for one in weights if isinstance(one, dict) and one.get("num_bits") not in (2, 4, 8)})
    if odd:
        return said, "", f"compressed-tensors is read in 2, 4 and 8 bits, not in {odd[0]}"
    return said, "compressed", ""


_READERS = {
    "bitsandbytes": _bitsandbytes,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "compressed-tensors": _compressed,
}
