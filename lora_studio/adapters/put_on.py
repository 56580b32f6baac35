"""A saved adapter's tensors in a model, each in its place, those too that PEFT itself does not find the place of (`models.peft_names`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import safe_open

from lora_studio.adapters.saved_adapter import WEIGHTS_NAME
from lora_studio.models.peft_names import names_for_peft

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_ADAPTER = ".default"
_MISSING = "Found missing adapter keys"


def put_on(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Put the adapter of a folder on a base model, frozen.

    Raises:
        ValueError, RuntimeError, KeyError: It does not fit, as PEFT says it.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model: Any = PeftModel.from_pretrained(base, str(folder), is_trainable=False)
    with safe_open(str(folder / WEIGHTS_NAME), framework="pt") as file:
        misread = _misread(model, {str(name) for name in file.keys()})  # noqa: SIM118  # no mapping
        for key, parameter in misread.items():
            _put(key, parameter, file.get_tensor(key))
    for warning in told:
        if not (misread and str(warning.message).startswith(_MISSING)):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model


def set_tensors(model: PeftModel, tensors: Mapping[str, Tensor]) -> tuple[set[str], list[str]]:
    """Put tensors, named as `get_peft_model_state_dict` gives them, into a model that has the adapter already.

    Returns:
        Parameters of the model that there is no tensor for, and tensors that there is no parameter for.

    Raises:
        RuntimeError: A tensor has another shape than its parameter.
    """
    misread = _misread(model, tensors.keys())
    outcome: Any = set_peft_model_state_dict(model, {key: tensor for key, tensor in tensors.items() if key not in misread})
    for key, parameter in misread.items():
        _put(key, parameter, tensors[key])
    put = {id(parameter) for parameter in misread.values()}
    placed = {name for name, parameter in model.named_parameters() if id(parameter) in put}
    return set(outcome.missing_keys) - placed, list(outcome.unexpected_keys)


def _misread(model: Any, keys: Set[str]) -> dict[str, Tensor]:
    """Find the parameters whose names PEFT takes for others, by their keys."""
    own: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        key = name.replace(_ADAPTER, "", 1)
        key = key if key in keys else key.removesuffix(".weight")  # PEFT leaves it out behind DoRA's lengths
        if ".lora_" in key and key in keys:
            own[key] = parameter
    return {key: own[key] for key in names_for_peft(model.get_base_model(), own.keys())}


def _put(key: str, parameter: Tensor, tensor: Tensor) -> None:
    if parameter.shape != tensor.shape:
        raise RuntimeError(f"size mismatch for {key}: {tuple(tensor.shape)} in the file, {tuple(parameter.shape)} in the model")
    with torch.no_grad():
        parameter.copy_(tensor)
