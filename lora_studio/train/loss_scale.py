"""The loss scale that float16 gradients need, kept on the device: nothing has to be looked at to move it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_FIRST = 65536.0
_GROWS_AFTER = 2000


class LossScale:
    """Halves at every step whose numbers were not finite, doubles after 2,000 that were.

    Source: Micikevicius et al., Mixed Precision Training, arXiv 1710.03740; the figures are those of `torch.amp.GradScaler`.

    Attributes:
        value: () what the loss is multiplied by, in float32 on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(_FIRST, dtype=torch.float32, device=device)
        self._streak = torch.zeros((), dtype=torch.float32, device=device)

    def update(self, unfit: Tensor) -> None:
        """Move on by one step; `unfit` is () true where its numbers were not finite."""
        streak = torch.where(unfit, 0.0, self._streak + 1)
        grows = streak >= _GROWS_AFTER
        self.value = torch.where(unfit, self.value * 0.5, torch.where(grows, self.value * 2, self.value))
        self._streak = torch.where(grows, 0.0, streak)

    def state_dict(self) -> dict[str, Any]:
        """Return its state as numbers; the device is waited for."""
        return {"scale": float(self.value), "_growth_tracker": int(self._streak)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; that of a `GradScaler` will do."""
        self.value = torch.full_like(self.value, float(state["scale"]))
        self._streak = torch.full_like(self._streak, float(state["_growth_tracker"]))
