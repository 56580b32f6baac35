"""Checks with something planted in them, for the tests of the call that runs checks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

from torch import Tensor

from benchmarks.gpu import correctness
from benchmarks.gpu.call import Row, Setting
from lora_studio.kernels import fused_rms_norm


def wrong_kernel(setting: Setting) -> Iterator[Row]:
    """The real check of kernels, with norms that are 1% too large; what is taken for a norm is found by the right one."""
    right = fused_rms_norm._FusedRMSNorm.forward

    def wrong(ctx: object, x: Tensor, weight: Tensor, plus: float, epsilon: float) -> Tensor:
        found: Tensor = right(ctx, x, weight, plus, epsilon)
        return found if x.shape[0] == fused_rms_norm._TRIED else found * 1.01

    fused_rms_norm._FusedRMSNorm.forward = staticmethod(wrong)  # type: ignore[method-assign,assignment]
    yield from correctness.kernels(setting)


def hang(_setting: Setting) -> Iterator[Row]:
    yield Row("before it hangs", {"rows": 1}, True)
    threading.Event().wait()


def killed(_setting: Setting) -> Iterator[Row]:
    yield Row("before it is killed", {"rows": 1}, True)
    os.kill(os.getpid(), signal.SIGKILL)


def raises(_setting: Setting) -> Iterator[Row]:
    yield Row("before it raises", {"rows": 1}, True)
    raise RuntimeError("a planted error")


def nothing(_setting: Setting) -> Iterator[Row]:
    yield from ()


def sound(setting: Setting) -> Iterator[Row]:
    yield Row("where", {"device": setting.device, "process": os.getpid()}, True)
