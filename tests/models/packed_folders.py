"""Tiny models as programs that quantize write them: the same names and layouts on disk, and the weights they stand for.

Packed by the formulas of GPTQModel (`qlinear`), AWQ (`packing_utils`), DeepSeek's FP8, gpt-oss's MXFP4 and compressed-tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny import save_tiny_model, save_tiny_tokenizer

Packed = tuple[dict[str, Tensor], Tensor]
"""Parts by what comes after the weight's name without `weight`, and the weight they stand for."""
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_GROUP = 16


def words(numbers: Tensor, bits: int) -> Tensor:
    """Pack whole numbers into words of 32 bits along the last dimension, bit by bit."""
    bit = (numbers.to(torch.int64)[..., None] >> torch.arange(bits)) & 1
    stream = bit.flatten(-2)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % 32)).unflatten(-1, (-1, 32))
    value = (stream << torch.arange(32)).sum(-1)
    return torch.where(value >= 1 << 31, value - (1 << 32), value).to(torch.int32)


def gptq(weight: Tensor, bits: int = 4, version: str = "gptq", act_order: bool = True) -> Packed:
    inner = weight.shape[1]
    groups, most = inner // _GROUP, (1 << bits) - 1
    index = torch.arange(inner) // _GROUP
    if act_order:
        index = index[torch.randperm(inner, generator=torch.Generator().manual_seed(0))]
    by_group = torch.stack([weight[:, index == group] for group in range(groups)])
    low, high = by_group.amin(-1), by_group.amax(-1)
    scales = ((high - low) / most).half()
    zeros = (-low / scales.float()).round().clamp(1, most)
    numbers = (weight / scales.float()[index].T + zeros[index].T).round().clamp(0, most)
    parts = {
        "qweight": words(numbers, bits).T.contiguous(),
        "scales": scales,
        "g_idx": index.to(torch.int32),
        "qzeros": words(zeros - int(version == "gptq"), bits),
    }
    return parts, (numbers - zeros[index].T) * scales.float()[index].T


def awq(weight: Tensor) -> Packed:
    inner = weight.shape[1]
    index = torch.arange(inner) // _GROUP
    low, high = (getattr(weight.unflatten(1, (-1, _GROUP)), f"a{name}")(-1).T for name in ("min", "max"))
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(0, 15)
    numbers = (weight.T / scales.float()[index] + zeros[index]).round().clamp(0, 15)

    def packed(columns: Tensor) -> Tensor:
        return words(columns.unflatten(-1, (-1, 8))[..., list(AWQ_ORDER)].flatten(-2), 4)

    return {"qweight": packed(numbers), "qzeros": packed(zeros), "scales": scales}, ((numbers - zeros[index]) * scales.float()[index]).T


def fp8(weight: Tensor, block: int = 20, scale_name: str = "weight_scale_inv") -> Packed:
    """By blocks of which the last are cut, as of families whose sizes are no multiples of 128."""
    rows, columns = (-(-size // block) for size in weight.shape)
    padded = torch.nn.functional.pad(weight, (0, columns * block - weight.shape[1], 0, rows * block - weight.shape[0]))
    scale = padded.unflatten(0, (rows, block)).unflatten(-1, (columns, block)).abs().amax((1, 3)) / 448
    spread = scale.repeat_interleave(block, 0)[: weight.shape[0]].repeat_interleave(block, 1)[:, : weight.shape[1]]
    numbers = (weight / spread).to(torch.float8_e4m3fn)
    return {"weight": numbers, scale_name: scale}, numbers.float() * spread


def fp8_rows(weight: Tensor) -> Packed:
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    numbers = (weight / scale.float()).to(torch.float8_e4m3fn)
    return {"weight": numbers, "weight_scale": scale, "input_scale": torch.ones(1)}, numbers.float() * scale.float()


def int8_rows(weight: Tensor) -> Packed:
    scale = (weight.abs().amax(1, keepdim=True) / 127).bfloat16()
    numbers = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
    return {"weight": numbers, "weight_scale": scale}, numbers.float() * scale.float()


def int4_groups(weight: Tensor, symmetric: bool = True) -> Packed:
    grouped = weight.unflatten(1, (-1, _GROUP))
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale = (torch.maximum(-low, high) / 7 if symmetric else (high - low) / 15).bfloat16()
    zero = torch.zeros_like(low) if symmetric else (-8 - low / scale.float()).round().clamp(-8, 7)
    numbers = (grouped / scale.float()[..., None] + zero[..., None]).round().clamp(-8, 7)
    parts = {"weight_packed": words(numbers.flatten(1) + 8, 4), "weight_scale": scale, "weight_shape": torch.tensor(weight.shape)}
    if not symmetric:
        parts["weight_zero_point"] = words(zero.T + 8, 4).T.contiguous()
    return parts, ((numbers - zero[..., None]) * scale.float()[..., None]).flatten(1)


def nvfp4(weight: Tensor) -> Packed:
    grouped = weight.unflatten(1, (-1, _GROUP))
    total = torch.tensor([448 * 6 / float(weight.abs().max())])
    scale = (grouped.abs().amax(-1) / 6 * total).to(torch.float8_e4m3fn)
    numbers = nearest_fp4(grouped / (scale.float() / total)[..., None]).flatten(1)
    value = FP4[numbers] * (scale.float() / total).repeat_interleave(_GROUP, 1)
    return {"weight_packed": bytes_of(numbers), "weight_scale": scale, "weight_global_scale": total}, value


def nearest_fp4(values: Tensor) -> Tensor:
    return (values[..., None] - FP4).abs().argmin(-1)


def bytes_of(numbers: Tensor) -> Tensor:
    return (numbers[..., ::2] | numbers[..., 1::2] << 4).to(torch.uint8)


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pack experts × in × out as gpt-oss has them; give blocks, scales, and the experts they stand for."""
    turned = weight.transpose(1, 2).unflatten(-1, (-1, 32))
    exponent = (turned.abs().amax(-1) / 6).log2().ceil().clamp(-126, 126)
    numbers = nearest_fp4(turned / exponent.exp2()[..., None])
    value = (FP4[numbers] * exponent.exp2()[..., None]).flatten(-2).transpose(1, 2)
    return bytes_of(numbers), (exponent + 127).to(torch.uint8), value


COMPRESSED = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "ignore": ["lm_head"]}


def _group(form: str, kind: str, bits: int, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": "channel", **more}
    return {**COMPRESSED, "format": form, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


KINDS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Packed]]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True, "sym": False}, gptq),
    "gptq-v2": (
        {"quant_method": "gptq", "bits": 8, "group_size": 16, "checkpoint_format": "gptq_v2"},
        lambda weight: gptq(weight, 8, "gptq_v2", False),
    ),
    "gptq-3": ({"quant_method": "gptq", "bits": 3, "group_size": 16}, lambda weight: gptq(weight, 3)),
    "autoround": ({"quant_method": "auto-round", "bits": 2, "packing_format": "auto_round:auto_gptq"}, lambda weight: gptq(weight, 2)),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm", "zero_point": True}, awq),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [20, 20], "activation_scheme": "dynamic"}, fp8),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, fp8_rows),
    "w8a8-fp8": (_group("float-quantized", "float", 8), fp8_rows),
    "w8a8-int8": (_group("int-quantized", "int", 8), int8_rows),
    "w4a16": (_group("pack-quantized", "int", 4, strategy="group", group_size=16), int4_groups),
    "w4a16-asym": (
        _group("pack-quantized", "int", 4, strategy="group", group_size=16, symmetric=False),
        lambda weight: int4_groups(weight, symmetric=False),
    ),
    "nvfp4": (_group("nvfp4-pack-quantized", "float", 4, strategy="tensor_group", group_size=16), nvfp4),
}


def save_packed_model(folder: Path, kind: str, architecture: str = "llama", **changes: Any) -> dict[str, Tensor]:
    """Make a tiny model in `folder` whose linear layers are packed as `kind` has it; give the weights they stand for by name on disk.

    Beside it, in `<folder>-plain`, lies the model with just these weights in full precision.
    """
    settings, pack = KINDS[kind]
    plain = save_tiny_model(folder.with_name(f"{folder.name}-plain"), architecture, **changes)
    shutil.copytree(plain, folder)
    weights, packed, meant = load_file(plain / "model.safetensors"), dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in weights.items():
        if weight.dim() != 2 or "embed" in name or "head" in name or ".gate." in name:
            packed[name] = weight.bfloat16()
            weights[name] = packed[name].float()
            continue
        parts, value = pack(weight)
        packed |= {name.removesuffix("weight") + part: tensor.contiguous() for part, tensor in parts.items()}
        meant[name] = weights[name] = value.contiguous()
    save_file(packed, folder / "model.safetensors", {"format": "pt"})
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    tell(folder, settings)
    return meant


def tell(folder: Path, settings: dict[str, Any], dtype: str = "bfloat16") -> None:
    """Say in a folder's config how its weights are quantized."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype, "quantization_config": settings}, indent=1))


def save_gpt_oss(folder: Path, vocab_size: int = 384) -> dict[str, Tensor]:
    """Make a tiny gpt-oss with experts in MXFP4, as it is published, and `<folder>-plain`; give the experts by name."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gpt_oss",
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        sliding_window=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    plain = folder.with_name(f"{folder.name}-plain")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(plain)
    save_tiny_tokenizer(plain)
    shutil.copytree(plain, folder)
    weights, packed, meant = load_file(plain / "model.safetensors"), dict[str, Tensor](), dict[str, Tensor]()
    for name, weight in weights.items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            packed[name] = weight.bfloat16()
            weights[name] = packed[name].float()
            continue
        packed[f"{name}_blocks"], packed[f"{name}_scales"], value = mxfp4(weight)
        meant[name] = weights[name] = value.contiguous()
    save_file(packed, folder / "model.safetensors", {"format": "pt"})
    save_file(weights, plain / "model.safetensors", {"format": "pt"})
    tell(folder, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]})
    return meant


BITSANDBYTES: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "bfloat16"},
    "int8": {"load_in_8bit": True},
}


def save_bitsandbytes(folder: Path, kind: str, architecture: str = "llama", **changes: Any) -> Path:
    """Make a tiny model quantized and saved by transformers and bitsandbytes in `folder`; give the one it was made from."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = save_tiny_model(folder.with_name(f"{folder.name}-plain"), architecture, **changes)
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=BitsAndBytesConfig(**BITSANDBYTES[kind]), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return plain


def pack_experts(folder: Path) -> None:
    """Pack a mixture's experts in 4 bits too, one by one, as programs with transformers 4 did."""
    from bitsandbytes.functional import quantize_4bit

    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [name for name in tensors if ".experts." in name]:
        packed, state = quantize_4bit(tensors[name], quant_type="nf4", compress_statistics=True)
        tensors[name] = packed
        tensors |= {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
    save_file(tensors, file, {"format": "pt"})
