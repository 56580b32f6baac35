"""The dtypes a run would take, by the rules of `models.load.pick_dtype` and the training engine, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.adapter_file import BYTES_OF_DTYPE
from lora_studio.core.config import RunConfig
from lora_studio.planning.device import Device

if TYPE_CHECKING:
    from lora_studio.models.facts import ModelFacts


@dataclass(frozen=True)
class Precisions:
    """How numbers are held.

    Attributes:
        base: dtype of the base model's weights.
        compute: dtype of the matrix products.
    """

    base: str
    compute: str

    @property
    def base_bytes(self) -> int:
        """Bytes of a base weight."""
        return BYTES_OF_DTYPE[self.base]

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number that a product makes."""
        return BYTES_OF_DTYPE[self.compute]


def precisions_of(config: RunConfig, facts: ModelFacts, device: Device) -> Precisions:
    """Return the dtypes a run will take on a device."""
    base: str = config.model.dtype
    wanted: str = config.training.compute_dtype
    if base == "auto":
        base = "float32" if wanted == "float32" else _auto_dtype(facts, device)
    if wanted != "auto":
        return Precisions(base, wanted)
    return Precisions(base, "bfloat16" if base == "float32" and device.quick_bfloat16 else base)


def _auto_dtype(facts: ModelFacts, device: Device) -> str:
    if device.quick_bfloat16:
        return "bfloat16"
    return "float16" if device.kind == "cuda" and facts.dtype in ("float16", "bfloat16") else "float32"
