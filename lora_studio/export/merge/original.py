"""Is this the full precision that a base was quantized from? Told by the weights themselves."""

from __future__ import annotations

from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.models.check import read_model_config
from lora_studio.models.reading import facing_right
from lora_studio.models.stored_quantization import stored_quantization
from lora_studio.models.unpacked import UnpackedTensors

_LOOKED_AT = 6
_MOST_APART = 0.7
"""Two bits leave about half of a weight's size; models that are not of one origin are further apart than either is long."""


def weights_apart(quantized: Path, original: Path) -> float:
    """Return how far a quantized base's weights are from those of the model in full precision, relative to them: ‖Wq − W‖ / ‖W‖.

    Args:
        quantized: Folder of the base that an adapter was trained on.
        original: Folder of the model in full precision.

    Raises:
        InputError: It is quantized itself, of another family or size, or not the model that was quantized.
    """
    if stored_quantization(read_model_config(original)) is not None:
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
