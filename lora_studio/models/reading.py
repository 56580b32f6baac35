"""What is read into a model whose folder is quantized already: its parts as they lie there, or the weights they stand for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.models.checkpoint_names import CheckpointNames
from lora_studio.models.inspect import empty_model
from lora_studio.models.unpacked import UnpackedTensors, open_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from lora_studio.models.stored_tensors import StoredTensors


class Unread:
    """A tensor that is read when transformers asks for it, as a slice of a safetensors file is."""

    def __init__(self, read: Callable[[], Tensor], dtype: str, shape: tuple[int, ...]) -> None:
        """Take how to read it, its dtype in safetensors' word, and its shape."""
        self._read, self._dtype, self._shape = read, dtype, shape

    def __getitem__(self, _key: object) -> Tensor:
        """Read it."""
        return self._read()

    def get_dtype(self) -> str:
        """Return its dtype in safetensors' word."""
        return self._dtype

    def get_shape(self) -> list[int]:
        """Return its shape."""
        return list(self._shape)


def tensors_to_load(folder: Path, packed: bool) -> tuple[type[PreTrainedModel], dict[str, Unread]]:
    """Return the class of a quantized folder's model, and all tensors to load it from.

    Args:
        folder: The folder.
        packed: Whether linear layers get their weights packed as they are; experts, which are one parameter in memory, never do.
    """
    tensors, names, model = facing_right(folder)
    assert isinstance(tensors, UnpackedTensors)
    linear = {f"{name}.weight" for name, module in model.named_modules() if _stays(module)} if packed else set[str]()
    kept = {next(iter(group.stored.values())) for group in names.groups if group.converter is None and group.parameters[0] in linear}
    found: dict[str, Unread] = {}
    for name, tensor in tensors.by_name.items():
        if name in kept & tensors.unpacked:
            for part, stored in tensors.as_stored(name).items():
                found[part] = Unread(lambda part=part: tensors.read_part(part), stored.entry.dtype, stored.entry.shape)
        else:
            found[name] = Unread(lambda name=name: tensors.read(name), tensor.entry.dtype, tensor.entry.shape)
    return type(model), found


def facing_right(folder: Path) -> tuple[StoredTensors, CheckpointNames, Any]:
    """Open a folder's tensors, as of full precision and the way round its family holds them, with their names and the empty model."""
    model: Any = empty_model(folder)
    tensors = open_tensors(folder)
    names = CheckpointNames(model, list(tensors.by_name))
    return facing(tensors, names, model), names, model


def facing(tensors: StoredTensors, names: CheckpointNames, model: Any) -> StoredTensors:
    """Turn packed weights of layers that the family holds as in × out (transformers' Conv1D)."""
    from transformers.pytorch_utils import Conv1D

    if not isinstance(tensors, UnpackedTensors):
        return tensors
    turned = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)}
    return tensors.turning(
        next(iter(group.stored.values())) for group in names.groups if group.converter is None and group.parameters[0] in turned
    )


def without_quantization(config: Any) -> Any:
    """Return a transformers config of the same model in full precision."""
    bare = copy.deepcopy(config)
    for table in {id(one): one for one in (bare, bare.get_text_config(decoder=True))}.values():
        for key in ("quantization_config", "compression_config"):
            if key in vars(table):
                delattr(table, key)
    return bare


def _stays(module: Any) -> bool:
    """Return whether transformers puts one of bitsandbytes' layers in a module's place."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D) or type(module) is nn.Linear
