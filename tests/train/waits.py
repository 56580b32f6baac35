"""What would make the host wait for a device, counted on a processor."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# A number taken out of a tensor, or a result whose shape depends on numbers in one.
WAITS = {
    "aten._local_scalar_dense",
    "aten.equal",
    "aten.is_nonzero",
    "aten.item",
    "aten.nonzero",
    "aten.masked_select",
    "aten._unique2",
    "aten.unique_consecutive",
    "aten.repeat_interleave",
}


class Waits(TorchDispatchMode):
    """Counts the operations that would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).rpartition(".")[0]
        if name in WAITS:
            self.found[name] += 1
        if name == "aten.index" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.found["aten.index of a mask"] += 1
        return func(*args, **(kwargs or {}))
