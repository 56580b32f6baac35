"""How much of a device a run uses: the operations its steps need against the best matrix product measured on that device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch

from lora_studio.lora.flops import StepFlops
from lora_studio.train.precision import Precision

_SIZES = {"cuda": (2048, 4096), "mps": (1024, 2048), "cpu": (256, 512, 1024, 2048)}
_SECONDS = 0.3
_FEWEST_ROUNDS = 3


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
        """Give the share of the peak that a step reached, 0 to 1.

        Args:
            lengths: Of the step's rows, padding left out; of packed rows, of each row in a block.
            trained: Trained tokens in them.
            seconds: What the step took.
        """
        if not self.peak_flops or seconds <= 0:
            return None
        return self.flops.of(lengths, trained) / (seconds * self.peak_flops)


def peak_flops(precision: Precision) -> float | None:
    """Give the operations a second of a square matrix product in a run's dtype; None where the device cannot take one.

    Measured once a process, device, dtype and number of threads; takes a few tenths of a second.
    """
    return _measured(precision.device, precision.compute, torch.get_num_threads())


@cache
def _measured(device: torch.device, dtype: torch.dtype, _threads: int) -> float | None:
    try:
        sizes = _SIZES.get(device.type, _SIZES["cpu"])
        return _best(device, dict(_affordable(sizes, device, dtype)))
    except (RuntimeError, MemoryError):
        return None  # no memory to spare, or no such product: a run goes on without the figure


def _affordable(sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Iterator[tuple[int, Callable[[], object]]]:
    """Give products by size, the smallest first, up to the last that takes no longer than all may: emulated dtypes take minutes."""
    for size in sizes:
        product = _product(size, device, dtype)
        product()  # the first one sets things up
        yield size, product
        if 8 * _seconds(product, device) > _SECONDS:
            return


def _seconds(product: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    began = time.perf_counter()
    product()
    _wait_for(device)
    return time.perf_counter() - began


def _best(device: torch.device, products: dict[int, Callable[[], object]]) -> float:
    """Take products of several sizes in turn, and give the most operations a second that any reached."""
    best, rounds, ends = 0.0, 0, time.perf_counter() + _SECONDS
    while rounds < _FEWEST_ROUNDS or time.perf_counter() < ends:
        for size, product in products.items():
            best = max(best, 2 * size**3 / _seconds(product, device))
        rounds += 1
    return best


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], object]:
    """Give a product of random numbers: of equal ones a graphics card makes more, since it draws less power for them."""
    numbers = torch.Generator(device).manual_seed(0)
    one, other = (torch.randn(size, size, generator=numbers, device=device).to(dtype) for _ in range(2))
    return partial(torch.mm, one, other, out=torch.empty_like(one))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
