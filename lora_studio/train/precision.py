"""Precision of the matrix products."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting

from lora_studio.inference.loaded_model import active_config


@dataclass(frozen=True)
class Precision:
    """Where and how precisely a run computes.

    Attributes:
        device: Where the model is.
        compute: dtype of the matrix products.
    """

    device: torch.device
    compute: torch.dtype

    @property
    def mixed(self) -> bool:
        """Whether products are taken in fewer bits than the adapter is stored in."""
        return self.compute != torch.float32

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context that forward passes run in."""
        return torch.autocast(self.device.type, dtype=self.compute) if self.mixed else contextlib.nullcontext()

    def fused_inputs(self, model: PeftModel) -> contextlib.AbstractContextManager[None]:
        """Spare PEFT's cast of each adapter's input to the adapter's dtype: under autocast the product casts it back at once.

        DoRA takes norms and products outside of autocast's reach, so it keeps its cast.
        """
        config = active_config(model)
        return disable_input_dtype_casting(model, active=self.mixed and not config.use_dora and not config.target_parameters)
