"""How much of a device a run uses: the operations its steps need against the best matrix product measured on that device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import torch

from lora_studio.planning.flops import StepFlops
from lora_studio.train.precision import Precision

_SIZES = {"cuda": (1024, 2048, 4096), "mps": (512, 1024, 2048), "cpu": (256, 512, 1024, 2048)}
_OF_TWICE_THE_SIZE = 8  # times as many operations
_SECONDS = 0.4


@dataclass(frozen=True)
class Utilization:
    """Turns a step's rows and seconds into a share of the device.

    Attributes:
        flops: What rows cost.
        peak_flops: Operations a second of a matrix product on this device; None where none could be measured.
    """

    flops: StepFlops
    peak_flops: float | None

    def share(self, lengths: Iterable[int], trained: int, seconds: float) -> float | None:
        """Return the share of the peak that a step reached, 0 to 1.

        Args:
            lengths: Of the step's rows, padding left out; of packed rows, of each row in a block.
            trained: Trained tokens in them.
            seconds: What the step took.
        """
        if not self.peak_flops or seconds <= 0:
            return None
        return self.flops.of(lengths, trained) / (seconds * self.peak_flops)


def peak_flops(precision: Precision) -> float | None:
    """Return the operations a second of a square matrix product in a run's dtype; None where the device cannot take one.

    Measured once a process, device, dtype and number of threads; takes a few tenths of a second.
    """
    return _measured(precision.device, precision.compute, torch.get_num_threads())


@cache
def _measured(device: torch.device, dtype: torch.dtype, _threads: int) -> float | None:
    try:
        return _best(device, dtype)
    except (RuntimeError, MemoryError):
        return None  # no memory to spare, or no such product: a run goes on without the figure


def _best(device: torch.device, dtype: torch.dtype) -> float:
    """Take products of several sizes in turn, and give the most operations a second that any reached.

    A larger size is tried only where there is time for it: float16 on a processor without it is thousands of times slower than float32.
    """
    ends = time.perf_counter() + _SECONDS
    seconds: dict[int, Callable[[], float]] = {}
    best = 0.0
    for size in _SIZES.get(device.type, _SIZES["cpu"]):
        seconds[size] = partial(_seconds, _product(size, device, dtype), device)
        seconds[size]()  # the first one also allocates, and loads what the device needs
        taken = seconds[size]()
        best = max(best, 2 * size**3 / taken)
        if time.perf_counter() + 2 * _OF_TWICE_THE_SIZE * taken > ends:
            break
    while time.perf_counter() < ends:
        for size, measure in seconds.items():
            best = max(best, 2 * size**3 / measure())
    return best


def _seconds(product: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    product()
    _wait_for(device)
    return time.perf_counter() - began


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Return a product of random numbers: of equal ones a graphics card makes more, since it draws less power for them."""
    numbers = torch.Generator(device).manual_seed(0)
    one, other = (torch.randn(size, size, generator=numbers, device=device).to(dtype) for _ in range(2))
    return partial(torch.mm, one, other, out=torch.empty_like(one))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
