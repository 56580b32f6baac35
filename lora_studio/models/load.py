"""Load a base model and its tokenizer: safetensors only, no code from the model's folder, frozen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError, StudioError
from lora_studio.models.check import FIELD, check_folder
from lora_studio.models.inspect import load_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ATTENTION = "sdpa"


def load_model(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a base model, frozen and in evaluation mode, with PyTorch's own attention.

    Args:
        folder: Folder with config.json and safetensors.
        dtype: How its weights are held.
        device: Where.

    Raises:
        InputError: It is no model, is damaged or refused, or lacks weights that its config calls for.
        StudioError: It does not fit into the device's memory.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not check_folder(folder):
        raise InputError(f"{folder} has a config.json but no weights.", "Put the model's *.safetensors files beside it.", FIELD)
    config = load_config(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder), config=config, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True,
            trust_remote_code=False, local_files_only=True, output_loading_info=True,
        )
        _refuse_missing(folder, report)
        model = model.to(device)
    except torch.cuda.OutOfMemoryError as error:
        message = f"{folder.name} in {str(dtype).removeprefix('torch.')} does not fit into the memory of {device}."
        raise StudioError(message, "Choose a smaller model, half precision, or the CPU.", "model.dtype") from error
    except (ValueError, RuntimeError) as error:
        first_line = str(error).strip().split("\n")[0][:300]
        raise InputError(f"{folder} cannot be loaded: {first_line}", "Download or copy the model again.", FIELD) from error
    model.requires_grad_(False)
    return model.eval()


def _refuse_missing(folder: Path, report: dict[str, Any]) -> None:
    """Refuse a model some of whose weights would be random numbers: transformers only warns."""
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(entry[0]) for entry in report.get("mismatched_keys") or ())
    if missing or mismatched:
        what = f"lacks {len(missing)} weights that its config calls for, first {missing[0]}" if missing else (
            f"has weights of other shapes than its config, first {mismatched[0]}")
        raise InputError(f"{folder} {what}.", "Download or copy the model again; config and weights belong together.", FIELD)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer with a pad token settled.

    Padding is masked by position everywhere in the studio, never by comparing with the pad token, so a model whose pad
    token is its end token (the starter's is) still learns to end. Where there is none, the end token stands in.

    Raises:
        InputError: The folder holds no tokenizer, or one that asks for code of its own.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True, use_fast=True)
    except Exception as error:  # the tokenizer libraries raise bare Exception too
        first_line = str(error).strip().split("\n")[0][:300]
        message = f"The tokenizer of {folder} cannot be loaded: {first_line}"
        raise InputError(message, "The folder needs tokenizer.json and tokenizer_config.json of the same model.", FIELD) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def pick_device(wanted: str = "auto") -> torch.device:
    """Give the device a config asks for; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: The device asked for is not on this machine.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    if not there.get(wanted):
        raise InputError(f"This machine has no {wanted} device.", "Set training.device to auto or cpu.", "training.device")
    return torch.device(wanted)


def has_quick_bfloat16(device: torch.device) -> bool:
    """Say whether matrix products in bfloat16 are quicker than in float32 on a device.

    On a CPU that takes AVX512-BF16 or AMX (Arm: BF16); without them bfloat16 is emulated and several times slower.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        return True
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


def pick_dtype(device: torch.device, wanted: str = "auto", stored: str = "") -> torch.dtype:
    """Give the dtype to hold a base model's weights in.

    Args:
        device: Where it will be.
        wanted: `model.dtype` of a config.
        stored: The files' dtype, in torch's words, such as `bfloat16`; empty when unknown.
    """
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)
    if has_quick_bfloat16(device):
        return torch.bfloat16
    if device.type == "cuda" and stored in ("float16", "bfloat16"):
        return torch.float16
    return torch.float32
