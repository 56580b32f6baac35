"""Seconds on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def finished(device: torch.device) -> float:
    """Wait until the device has done all it was given; give the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that work takes on the device."""
    began = finished(device)
    work()
    return finished(device) - began
