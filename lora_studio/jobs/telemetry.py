"""Looks at memory four times a second, whatever the task does, and never disturbs it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import psutil

from lora_studio.core.events import Memory

INTERVAL_S = 0.25


class MemorySampler:
    """A thread that delivers a `Memory` event at once and every `INTERVAL_S` seconds; a context manager, joined at its end.

    Device figures come from torch only where the task has imported torch and touched the device: the sampler itself
    imports nothing heavy and creates no CUDA context.
    """

    def __init__(self, deliver: Callable[[Memory], None], interval: float = INTERVAL_S) -> None:
        self._deliver = deliver
        self._interval = interval
        self._over = threading.Event()
        self._process = psutil.Process()
        self._device = _NvmlDevice()
        self._thread = threading.Thread(target=self._sample, name="memory-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._device.close()

    def _sample(self) -> None:
        while True:
            self._deliver(self.look())
            if self._over.wait(self._interval):
                return

    def look(self) -> Memory:
        """Return the memory in use now, in bytes."""
        figures = {"resident": self._process.memory_info().rss, **_torch_figures(), **self._device.figures()}
        return Memory.model_validate(figures)


def _torch_figures() -> dict[str, int]:
    """Ask torch for its allocator's figures, if it is there and has a device under way."""
    torch: Any = sys.modules.get("torch")
    try:
        if torch is None:
            return {}
        if torch.cuda.is_initialized():
            return {"cuda_allocated": torch.cuda.memory_allocated(), "cuda_reserved": torch.cuda.memory_reserved()}
        if torch.backends.mps.is_available():
            return {"device_used": torch.mps.driver_allocated_memory(), "device_total": torch.mps.recommended_max_memory()}
    except Exception:  # torch is still being imported, or the device is gone
        return {}
    return {}


class _NvmlDevice:
    """The first visible NVIDIA device as its driver sees it; without driver or library there are no figures."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        self._tried = False

    def figures(self) -> dict[str, float]:
        """Return memory, load and temperature; empty where there is no such device."""
        if not self._tried:
            self._tried = True
            self._open()
        if self._handle is None:
            return {}
        nvml, handle = self._nvml, self._handle
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            found: dict[str, float] = {"device_used": int(memory.used), "device_total": int(memory.total)}
        except Exception:  # whatever a driver's library does: the run goes on without these figures
            return {}
        with contextlib.suppress(Exception):
            found["device_utilization"] = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(Exception):
            found["device_temperature"] = float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        return found

    def close(self) -> None:
        """Let go of the driver's library."""
        if self._handle is not None:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()
            self._handle = None

    def _open(self) -> None:
        with contextlib.suppress(Exception):  # no library, no driver, or one that answers nonsense
            import pynvml

            nvml: Any = pynvml
            nvml.nvmlInit()
            self._nvml, self._handle = nvml, _visible_device(nvml)


def _visible_device(nvml: Any) -> Any:
    """Return the handle of the device that is torch's `cuda:0`: NVML does not heed CUDA_VISIBLE_DEVICES."""
    import os

    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(first))
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return None
