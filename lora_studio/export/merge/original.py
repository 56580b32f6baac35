"""Is this the full precision that a base was quantized from? Told by the weights themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.redact import public_name
from lora_studio.models.full_precision import full_precision_of
from lora_studio.models.quantization import NONE
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.reading import facing_right
from lora_studio.models.sources import find_model
from lora_studio.models.stored_quantization import stored_finding
from lora_studio.models.unpacked import UnpackedTensors

_LOOKED_AT = 6
_MOST_APART = 0.7
"""Two bits leave about half of a weight's size; models that are not of one origin are further apart than either is long."""


@dataclass(frozen=True)
class FullPrecision:
    """The model that a quantized base was made from.

    Attributes:
        name: What it is called.
        weights_apart: How far the base's weights are from its; see `weights_apart`.
    """

    name: str
    weights_apart: float


def full_precision_here(name: str, base: Path) -> FullPrecision | None:
    """Find the model in full precision that a quantized base names, where it is on this machine and is that one; else None.

    Args:
        name: The quantized base's name or path.
        base: Its folder.
    """
    named = full_precision_of(name, base)
    if not named or stored_finding(folder_quantization(base), NONE, "cpu") is not None:
        return None
    try:
        found = find_model(named)
        return FullPrecision(public_name(named), weights_apart(base, found.path)) if found.ready and found.path else None
    except (StudioError, OSError):
        return None  # it is told of where it can be, and nothing goes by it


def weights_apart(quantized: Path, original: Path) -> float:
    """Return how far a quantized base's weights are from those of the model in full precision, relative to them: ‖Wq − W‖ / ‖W‖.

    Args:
        quantized: Folder of the base that an adapter was trained on.
        original: Folder of the model in full precision.

    Raises:
        InputError: It is quantized itself, of another family or size, or not the model that was quantized.
    """
    if folder_quantization(original) is not None:
        raise InputError(f"{original.name} is quantized itself.", "Name the model in full precision.", "into")
    packed, names, _ = facing_right(quantized)
    plain, plain_names, _ = facing_right(original)
    assert isinstance(packed, UnpackedTensors)
    alone = {group.parameters[0]: next(iter(group.stored.values())) for group in names.groups if group.converter is None}
    places = {group.parameters[0]: next(iter(group.stored.values())) for group in plain_names.groups if group.converter is None}
    shared = [name for name, stored in alone.items() if stored in packed.unpacked and name in places]
    if not shared:
        raise InputError(f"{original.name} is no model that {quantized.name} could be quantized from.", "Name another.", "into")
    error = size = 0.0
    for name in shared[:: max(1, len(shared) // _LOOKED_AT)]:
        one, other = packed.read(alone[name]).double(), plain.read(places[name]).double()
        if one.shape != other.shape:
            message = f"{name} is {tuple(other.shape)} in {original.name}, and {tuple(one.shape)} in {quantized.name}."
            raise InputError(message, "Name the model that it was quantized from.", "into")
        error, size = error + float((one - other).square().sum()), size + float(other.square().sum())
    apart = (error / size) ** 0.5 if size else 0.0
    if apart > _MOST_APART:
        message = f"{original.name} is not what {quantized.name} was quantized from: their weights differ by {apart:.0%} of their size."
        raise InputError(message, "Name the model that it was quantized from, or merge into the base unpacked: --into dequantized.", "into")
    return apart
