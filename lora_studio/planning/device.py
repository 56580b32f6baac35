"""The device a run would take, looked at without torch: the window asks before torch is there."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

# What macOS lets one process take of unified memory, by default.
_MPS_SHARE = 0.75
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True)
class Device:
    """Where a run would compute.

    Attributes:
        kind: cuda, mps or cpu.
        name: As its maker calls it, or the processor's architecture.
        capacity_bytes: Its memory in all; 0 when unknown.
        quick_bfloat16: Whether matrix products in bfloat16 are quick on it.
    """

    kind: str
    name: str
    capacity_bytes: int
    quick_bfloat16: bool

    def __str__(self) -> str:
        return f"{self.kind} ({self.name})" if self.name else self.kind


def find_device(wanted: str = "auto") -> Device:
    """Return the device `training.device` means on this machine; in place of one that is not there, the CPU."""
    if wanted in ("auto", "cuda"):
        found = _nvidia_device()
        if found is not None:
            return found
    if wanted in ("auto", "mps") and _is_apple_silicon():
        return Device("mps", platform.processor() or "Apple", int(psutil.virtual_memory().total * _MPS_SHARE), quick_bfloat16=True)
    return Device("cpu", platform.machine(), psutil.virtual_memory().total, _cpu_has_bfloat16())


def _is_apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


@cache
def _cpu_has_bfloat16() -> bool:
    """Look for AVX512-BF16, AMX or Arm's BF16 among the processor's flags; only Linux tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return not _BFLOAT16_FLAGS.isdisjoint(line.split())
    return False


def _torch_has_cuda() -> bool:
    """Return whether the torch installed is a CUDA build: a CPU build cannot use the best of cards."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    libraries = Path(spec.origin).parent / "lib"
    return any((libraries / name).exists() for name in ("libtorch_cuda.so", "torch_cuda.dll"))


@cache
def _nvidia_device() -> Device | None:
    if not _torch_has_cuda():
        return None
    try:
        with _nvml() as nvml:
            handle = nvml.nvmlDeviceGetHandleByIndex(_first_visible())
            name = nvml.nvmlDeviceGetName(handle)
            major, _minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except (ImportError, OSError, _NoDeviceError):
        return None
    return Device("cuda", name if isinstance(name, str) else name.decode(), total, quick_bfloat16=major >= 8)


class _NoDeviceError(Exception):
    """There is no driver, or no card that may be used."""


def _first_visible() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return 0
    first = visible.split(",")[0].strip()
    if first in ("", "-1"):
        raise _NoDeviceError
    return int(first) if first.isdecimal() else 0


@contextlib.contextmanager
def _nvml() -> Generator[Any]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _NoDeviceError from error
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise _NoDeviceError from error
    finally:
        pynvml.nvmlShutdown()
