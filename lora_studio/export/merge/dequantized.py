"""The base as an adapter was trained on it: held in 4 or 8 bits. Merging goes into full precision, its own or this one unpacked."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lora_studio.core.modules import ModuleTree
from lora_studio.models.held_weights import quantized_modules
from lora_studio.models.quantization import quantization_finding
from lora_studio.models.stored_tensors import StoredTensor, StoredTensors

if TYPE_CHECKING:
    from lora_studio.models.checkpoint_names import CheckpointNames


class DequantizedTensors(StoredTensors):
    """A base's tensors, of which the quantized ones are read as they were held, unpacked to float32.

    Attributes:
        held: Names on disk of those.
    """

    def __init__(self, stored: StoredTensors, names: CheckpointNames, tree: ModuleTree, quantization: str, dtype: str) -> None:
        """Take a base's tensors.

        Args:
            stored: As they lie on disk.
            names: Which of them is which parameter.
            tree: The base's modules.
            quantization: `model.quantization` of the run, not none.
            dtype: `model.dtype` of the run: what the weights were quantized from; "auto" for what they are stored in.

        Raises:
            InputError: bitsandbytes is not installed.
        """
        refused = quantization_finding(quantization, "cpu")
        if refused is not None:
            raise refused.as_error()
        super().__init__(stored.folder, stored.headers)
        self._stored = stored
        self._quantization = quantization
        self._dtype: torch.dtype | None = None if dtype == "auto" else getattr(torch, dtype)
        modules = {f"{name}.weight": name for name in quantized_modules(tree, quantization)}
        held = {
            next(iter(group.stored.values())): tree.by_name[modules[group.parameters[0]]]
            for group in names.groups
            if group.converter is None and group.parameters[0] in modules
        }
        self._turned = {name for name, module in held.items() if module.kind == "conv1d"}
        self.held = frozenset(held)
        self.unpacked = self.held | stored.unpacked

    @cached_property
    def by_name(self) -> dict[str, StoredTensor]:
        """Find a tensor."""
        return self._stored.by_name

    def read(self, name: str) -> Tensor:
        """Read a tensor: as it lies there, or as it was held."""
        weight = self._stored.read(name)
        if name not in self.held:
            return weight
        from lora_studio.models.quantized import as_held

        given = weight if self._dtype is None else weight.to(self._dtype)
        return as_held(given.T, self._quantization).T.contiguous() if name in self._turned else as_held(given, self._quantization)


def hold(model: Any, stored: StoredTensors, names: CheckpointNames) -> None:
    """Put the weights that were held, unpacked, into a loaded model in float32."""
    if not isinstance(stored, DequantizedTensors):
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for group in names.groups:
            name = next(iter(group.stored.values()))
            if name in stored.held:
                parameters[group.parameters[0]].copy_(stored.read(name))
