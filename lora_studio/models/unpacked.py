"""A quantized folder's tensors as those of the same model in full precision: names, shapes and, when read, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.errors import InputError
from lora_studio.models.check import read_model_config
from lora_studio.models.packed_names import PackedWeight, helper_names, packed_weights
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.safetensors_header import FIELD, TensorEntry
from lora_studio.models.stored_quantization import StoredQuantization
from lora_studio.models.stored_tensors import StoredTensor, StoredTensors

if TYPE_CHECKING:
    from torch import Tensor

_FLOATS = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}


def open_tensors(folder: Path) -> StoredTensors:
    """Open a model's tensors; those of a quantized one as of its full precision.

    Raises:
        InputError: It has no safetensors weights, damaged ones, or ones quantized in a way that is not read here.
    """
    tensors = StoredTensors.open(folder)
    stored = folder_quantization(folder, headers=tensors.headers)
    if stored is None:
        return tensors
    if stored.unread:
        raise InputError(f"{folder} is quantized already: {stored.unread}.", "Choose the model in full precision.", FIELD)
    return UnpackedTensors(tensors, stored, read_model_config(folder))


class UnpackedTensors(StoredTensors):
    """Tensors of which the packed ones are read as what they stand for, in float32.

    Attributes:
        packed: The weights that lie in parts, by name.
        dtype_name: The dtype that the model was quantized from, as far as is known: what unpacked weights are written in.
    """

    def __init__(
        self,
        tensors: StoredTensors,
        stored: StoredQuantization,
        config: Mapping[str, Any],
        turned: Iterable[str] = (),
    ) -> None:
        """Take a folder's tensors.

        Args:
            tensors: As they lie there.
            stored: How they are quantized.
            config: The folder's.
            turned: Names of packed weights that the family holds as in × out.
        """
        super().__init__(tensors.folder, tensors.headers)
        self._tensors, self._stored, self._config, self._turned = tensors, stored, config, frozenset(turned)
        self.packed: dict[str, PackedWeight] = packed_weights(stored, tensors)
        self.unpacked = frozenset(self.packed)
        self.dtype_name = _dtype_of(config, stored)

    def turning(self, names: Iterable[str]) -> UnpackedTensors:
        """Return the same with some weights turned round."""
        return UnpackedTensors(self._tensors, self._stored, self._config, names)

    @cached_property
    def by_name(self) -> dict[str, StoredTensor]:
        """Find a tensor by its name in full precision; of a packed one, where its first part lies and what it will be."""
        parts = {name for weight in self.packed.values() for name in weight.parts.values()}
        parts |= helper_names(self._stored, self._tensors)
        at = {next(iter(weight.parts.values())): weight for weight in self.packed.values()}
        code, size = _FLOATS[self.dtype_name]
        found: dict[str, StoredTensor] = {}
        for name, tensor in self._tensors.by_name.items():
            if name in at:
                shape = self._shape(at[name])
                bare = TensorEntry(code, shape, 0, 0)
                found[at[name].name] = StoredTensor(tensor.file, TensorEntry(code, shape, 0, bare.elements * size), 0)
            elif name not in parts:
                found[name] = tensor
        return found

    def read(self, name: str) -> Tensor:
        """Read a tensor: as it lies there, or unpacked to float32."""
        weight = self.packed.get(name)
        if weight is None:
            return self._tensors.read(name)
        from lora_studio.models.unpack import unpacked

        parts = {role: self._tensors.read(part) for role, part in weight.parts.items()}
        tensor = unpacked(self._stored.layout, parts, weight.shape, self._stored.settings)
        return tensor.T.contiguous() if name in self._turned else tensor

    def as_stored(self, name: str) -> dict[str, StoredTensor]:
        """Return the parts of a packed weight as they lie there, by their names."""
        return {part: self._tensors.by_name[part] for part in self.packed[name].parts.values()}

    def read_part(self, name: str) -> Tensor:
        """Read a part as it lies there."""
        return self._tensors.read(name)

    def packed_bytes(self) -> dict[str, int]:
        """Return the bytes of each packed weight as it lies there, by its module's name on disk, without what describes it in words."""
        return {
            name.removesuffix(".weight"): sum(
                self._tensors.by_name[part].bytes for role, part in weight.parts.items() if role not in _DESCRIBING
            )
            for name, weight in self.packed.items()
        }

    def _shape(self, weight: PackedWeight) -> tuple[int, ...]:
        return weight.shape[::-1] if weight.name in self._turned else weight.shape


_DESCRIBING = ("quant_state", "quant_map", "nested_quant_map", "shape")


def _dtype_of(config: Mapping[str, Any], stored: StoredQuantization) -> str:
    inner = config.get("text_config")
    for table in (config, inner if isinstance(inner, dict) else {}):
        told = str(table.get("dtype") or table.get("torch_dtype") or "").removeprefix("torch.")
        if told in _FLOATS:
            return told
    return "float16" if stored.layout in ("gptq", "awq", "bnb8") else "bfloat16"
