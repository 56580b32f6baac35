"""The numbers that quantized weights stand for, in float32, whatever program packed them.

Sources: GPTQ `(q − z) · s` by groups of inputs, as GPTQModel's `dequantize_weight`; AWQ the same with its order of columns; FP8 and
compressed-tensors `(q − z) · s` by blocks, rows or groups; MXFP4 `fp4 · 2^(e − 127)` as transformers' `convert_moe_packed_tensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lora_studio.core.errors import InputError
from lora_studio.models.safetensors_header import FIELD

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
_EXPONENT_BIAS = 127
Parts = Mapping[str, Tensor]


def unpacked(layout: str, parts: Parts, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Tensor:
    """Return a weight as it is after quantization, in float32.

    Args:
        layout: See `StoredQuantization`.
        parts: Its tensors, by what each is; see `PackedWeight`.
        shape: Its own shape.
        settings: The config's table on quantization.

    Raises:
        InputError: The parts do not make up such a weight.
    """
    try:
        weight = _UNPACKERS[layout](parts, shape, settings)
    except (RuntimeError, ValueError, IndexError) as error:
        message = f"A quantized weight's parts do not fit each other: {' '.join(str(error).split())[:200]}."
        raise InputError(message, "Download or copy the model again.", FIELD) from error
    if tuple(weight.shape) != tuple(shape):
        message = f"A quantized weight of {tuple(shape)} unpacks to {tuple(weight.shape)}."
        raise InputError(message, "Download or copy the model again.", FIELD)
    return weight


def codes(words: Tensor, bits: int) -> Tensor:
    """Take whole numbers of some bits out of the words they are packed into along the last dimension, the lowest bits first."""
    stream = words.contiguous().view(torch.uint8)
    mask = (1 << bits) - 1
    if 8 % bits == 0:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return ((stream[..., None] >> shifts) & mask).flatten(-2)
    first = torch.arange(0, stream.shape[-1] * 8 // bits) * bits
    wide = torch.nn.functional.pad(stream, (0, 1)).to(torch.int32)
    pairs = wide[..., first // 8] | (wide[..., first // 8 + 1] << 8)  # a number that crosses a byte's border
    return ((pairs >> (first % 8).to(torch.int32)) & mask).to(torch.uint8)


def _bnb4(parts: Parts, _shape: tuple[int, ...], _settings: Mapping[str, Any]) -> Tensor:
    """Unpack as a product in float32 does; the dtype that was quantized from would round it."""
    from bitsandbytes.functional import QuantState

    from lora_studio.models.quantized import unpacked_4bit

    packed = parts["weight"]
    state = QuantState.from_dict({_STATE_KEYS.get(role, role): part for role, part in parts.items() if role != "weight"}, packed.device)
    return unpacked_4bit(packed, state, torch.float32)


_STATE_KEYS = {"quant_state": "quant_state.bitsandbytes__nf4"}  # the kind is told by the numbers in it


def _bnb8(parts: Parts, _shape: tuple[int, ...], _settings: Mapping[str, Any]) -> Tensor:
    return parts["weight"].float() * (parts["SCB"].float() / 127)[:, None]


def _gptq(parts: Parts, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Tensor:
    fitting, rest = divmod(parts["qweight"].shape[0] * 32, shape[1])
    bits = int(settings["bits"]) if rest else fitting  # some layers may have more than others
    numbers = codes(parts["qweight"].T, bits)[:, : shape[1]].float()
    scales = parts["scales"].float()
    zeros = codes(parts["qzeros"], bits)[:, : shape[0]].float()
    if str(settings.get("checkpoint_format") or "gptq") == "gptq":  # its zeros were written less one
        zeros = (zeros + 1) % (1 << bits)
    size = -(-shape[1] // scales.shape[0])
    group = parts["g_idx"].long() if "g_idx" in parts else torch.arange(shape[1]) // size
    return (numbers - zeros[group].T) * scales[group].T


def _awq(parts: Parts, shape: tuple[int, ...], _settings: Mapping[str, Any]) -> Tensor:
    scales = parts["scales"].float()
    numbers, zeros = (_in_order(codes(parts[name], 4))[:, : shape[0]].float() for name in ("qweight", "qzeros"))
    group = torch.arange(shape[1]) // -(-shape[1] // scales.shape[0])
    return ((numbers - zeros[group]) * scales[group]).T.contiguous()


def _in_order(columns: Tensor) -> Tensor:
    """Put the columns of eight to a word back, which AWQ packs in an order of its own."""
    return columns.unflatten(-1, (-1, 8))[..., list(_AWQ_ORDER)].flatten(-2)


def _fp8(parts: Parts, shape: tuple[int, ...], settings: Mapping[str, Any]) -> Tensor:
    weight = parts["weight"]
    numbers = weight.float() if weight.is_floating_point() else _fp4(weight)
    block: Any = settings.get("weight_block_size")
    return numbers * _spread(_scale(parts["scale"]), shape, block if isinstance(block, list | tuple) else ())


def _mxfp4(parts: Parts, _shape: tuple[int, ...], _settings: Mapping[str, Any]) -> Tensor:
    numbers = _fp4(parts["blocks"]) * _scale(parts["scales"])[..., None]
    return numbers.flatten(-2).transpose(-1, -2).contiguous()


def _compressed(parts: Parts, shape: tuple[int, ...], _settings: Mapping[str, Any]) -> Tensor:
    scale = _scale(parts["scale"])
    if "global_scale" in parts:
        scale = scale / parts["global_scale"].float()
    if "weight" in parts:
        zero = parts.get("zero_point")
        numbers = parts["weight"].float()
        return (numbers if zero is None else numbers - _spread(zero.float(), shape)) * _spread(scale, shape)
    packed = parts["packed"]
    if packed.dtype != torch.int32:
        return _fp4(packed) * _spread(scale, shape)
    bits = _bits_of(packed.shape[-1], shape[-1])
    numbers = codes(packed, bits)[..., : shape[-1]].float() - (1 << bits - 1)
    if "zero_point" in parts:
        zero = codes(parts["zero_point"].T, bits).T[: shape[0]].float() - (1 << bits - 1)
        numbers = numbers - _by_group(zero, shape, parts.get("g_idx"))
    return numbers * _by_group(scale, shape, parts.get("g_idx"))


def _bits_of(words: int, columns: int) -> int:
    """Say how many bits fill so many words with so many columns."""
    return next(bits for bits in (2, 4, 8, 0) if not bits or -(-columns * bits // 32) == words)


def _by_group(scale: Tensor, shape: tuple[int, ...], group: Tensor | None) -> Tensor:
    used = group is not None and scale.dim() == 2 and scale.shape[-1] > 1 and bool((group >= 0).all())
    return scale[:, group.long()] if used and group is not None else _spread(scale, shape)


def _fp4(packed: Tensor) -> Tensor:
    """Return the numbers of four bits, two to a byte, the lower bits first."""
    return torch.tensor(_FP4)[codes(packed.view(torch.uint8), 4).long()]


def _scale(scale: Tensor) -> Tensor:
    """Return scales in float32; those of one byte are exponents."""
    return (scale.float() - _EXPONENT_BIAS).exp2() if scale.dtype == torch.uint8 else scale.float()


def _spread(scale: Tensor, shape: tuple[int, ...], block: tuple[int, ...] | list[int] = ()) -> Tensor:
    """Spread scales, one for all, a row, a group of columns or a block, over a weight of `shape`; the last block may be cut."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.dim() == len(shape) - 1:
        scale = scale[..., None]
    for place, dimension in enumerate((-2, -1)):
        have, wanted = scale.shape[dimension], shape[dimension]
        if have in (1, wanted):
            continue
        told = int(block[place]) if len(block) == 2 else 0
        size = told if told and -(-wanted // told) == have else -(-wanted // have)
        scale = scale.repeat_interleave(size, dimension).narrow(dimension, 0, wanted)
    return scale


_UNPACKERS: dict[str, Callable[[Parts, tuple[int, ...], Mapping[str, Any]], Tensor]] = {
    "bnb4": _bnb4,
    "bnb8": _bnb8,
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "compressed": _compressed,
}
