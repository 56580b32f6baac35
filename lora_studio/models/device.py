"""Which device, and which dtype pays on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_studio.core.errors import InputError
from lora_studio.core.world import FIELD, World

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str = "auto") -> torch.device:
    """Return the device a config asks for; `auto` takes CUDA, then MPS, then the CPU. Of several processes each has a card of its own.

    Raises:
        InputError: The device asked for is not on this machine, or not as often as there are processes.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    kind = next(name for name, present in there.items() if present) if wanted == "auto" else wanted
    if not there.get(kind):
        raise InputError(f"This machine has no {kind} device.", "Set training.device to auto or cpu.", "training.device")
    world = World.of()
    cards = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind, world.local_size)
    if world.local_size > cards:
        raise InputError(
            f"{world.local_size} processes were started on this machine, which has {cards} {kind} devices.",
            "Start one for each, or set training.device to cpu.",
            FIELD,
        )
    return torch.device(kind, world.local_rank) if kind == "cuda" and world.local_size > 1 else torch.device(kind)


def has_quick_bfloat16(device: torch.device) -> bool:
    """Return whether matrix products in bfloat16 are quicker than in float32 on a device.

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
    """Return the dtype to hold a base model's weights in.

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
