"""Values that a type cannot hold are seen, whatever else is in the block; large ones that it can hold are not refused."""

from __future__ import annotations

import pytest
import torch

from lora_studio.core.errors import StudioError
from lora_studio.export.merge.blocks import refuse_overflow

INFINITE = float("inf")


@pytest.mark.parametrize("places", [{3: INFINITE}, {3: -INFINITE}, {3: INFINITE, 900: -INFINITE}])
def test_an_infinite_value_among_others_is_refused(places: dict[int, float]) -> None:
    values = torch.full((1024,), 0.5, dtype=torch.float16)
    for place, value in places.items():
        values[place] = value
    with pytest.raises(StudioError, match="layer has values too large for float16"):
        refuse_overflow("layer", values)


def test_values_whose_sum_alone_is_too_large_are_taken() -> None:
    refuse_overflow("layer", torch.full((1024,), 60000.0, dtype=torch.float16))
