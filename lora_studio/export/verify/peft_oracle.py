"""What PEFT itself makes of a parameter, layer by layer, without the base model in memory: what a merge is held against.

The base stands on the meta device with PEFT's layers on it; a layer is given its weight, merged by PEFT's own code, and emptied again.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer, ParamWrapper
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor, nn

from lora_studio.adapters.saved_adapter import PREFIX
from lora_studio.adapters.vocabulary import grown, resize_vocabulary
from lora_studio.core.errors import StudioError
from lora_studio.models.inspect import empty_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lora_studio.adapters.saved_adapter import AdapterTensors, SavedAdapter

_ADAPTER = ".default"
Merge = Callable[[Tensor], Tensor]


class PeftOracle:
    """PEFT's layers of one adapter.

    Attributes:
        changed: Parameters that the adapter changes, by name; each with the function from the base's weight, in float32, to the merged one.
    """

    def __init__(self, base: Path, adapter: SavedAdapter, tensors: AdapterTensors, resized: Mapping[str, int]) -> None:
        """Put the adapter on an empty base.

        Args:
            base: Folder with config.json.
            adapter: The adapter.
            tensors: Its open file.
            resized: Rows of embedding and head where the adapter has another number than the base.
        """
        self._tensors = tensors
        self._keys = adapter.header.tensors.keys()
        self._model: Any = _empty_layers(base, adapter.folder, resized)
        for name, parameter in list(self._model.named_parameters()):
            if ".lora_" in name or "trainable_tokens_delta" in name:
                self._fill(name, parameter)
        self.changed: dict[str, Merge] = {name: _resized_to(rows) for name, rows in resized.items()}
        self.changed |= {name: self._taken(key) for name, key in adapter.whole.items()}
        for name, module in self._model.named_modules():
            self._find(name.removeprefix(PREFIX), module)

    def _fill(self, name: str, parameter: Tensor) -> None:
        """Fill a parameter of PEFT's layers with its values from the file."""
        key = name.replace(_ADAPTER, "")
        key = key if key in self._keys else key.removesuffix(".weight")
        if key not in self._keys:
            message = f"PEFT asks for {key}, which the adapter's file does not have."
            raise StudioError(message, "Export or save the adapter again.", "source")
        owner, _, attribute = name.rpartition(".")
        holder: Any = self._model.get_submodule(owner)
        values = nn.Parameter(self._tensors.get(key).float(), requires_grad=False)
        assert values.shape == parameter.shape, f"{key}: {tuple(values.shape)} is not {tuple(parameter.shape)}"
        if isinstance(holder, nn.ParameterDict):
            holder[attribute] = values
        else:
            setattr(holder, attribute, values)

    def _find(self, name: str, module: nn.Module) -> None:
        plain = name.replace(".base_layer", "")
        if isinstance(module, ParamWrapper):
            self._add(f"{plain}.{module.parameter_name}", lambda weight: _merged(module, module.parameter_name, weight))
        elif isinstance(module, LoraLayer):
            self._add(f"{plain}.weight", lambda weight: _merged(module, "weight", weight))
            if module.lora_bias.get("default"):
                self._add(f"{plain}.bias", lambda bias: _merged(module, "bias", bias))
        elif isinstance(module, TrainableTokensWrapper):
            self._add(f"{plain}.weight", lambda weight: _merged(module.token_adapter, "weight", weight))

    def _add(self, parameter: str, merge: Merge) -> None:
        """Take note of a change; where the weight was saved as well, or resized, the change is made to that."""
        saved = self.changed.get(parameter)
        self.changed[parameter] = merge if saved is None else lambda weight: merge(saved(weight))

    def _taken(self, key: str) -> Merge:
        return lambda _weight: self._tensors.get(key).float()


def _resized_to(rows: int) -> Merge:
    return lambda weight: grown(weight, rows)


def _empty_layers(base: Path, adapter: Path, resized: Mapping[str, int]) -> Any:
    model: Any = empty_model(base)
    resize_vocabulary(model, max(resized.values(), default=0))
    config: Any = LoraConfig.from_pretrained(str(adapter))
    config.inference_mode, config.init_lora_weights = True, False
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return get_peft_model(model, config, low_cpu_mem_usage=True).eval()


def _merged(layer: Any, parameter: str, weight: Tensor) -> Tensor:
    """Have a layer merge itself into a weight that it is lent; its module's other parameters are zeros meanwhile."""
    owner = layer.get_base_layer()
    own = dict(owner.named_parameters(recurse=False))
    others = [name for name in ("weight", "bias") if name in own and name != parameter and own[name].is_meta]
    with contextlib.ExitStack() as lent:
        lent.enter_context(_lent(owner, parameter, weight))
        for name in others:
            lent.enter_context(_lent(owner, name, torch.zeros(getattr(owner, name).shape)))
        layer.merge(safe_merge=True)
        layer.merged_adapters.clear()
        return getattr(owner, parameter).detach()


@contextlib.contextmanager
def _lent(owner: Any, name: str, weight: Tensor) -> Generator[None]:
    """Yield a module a weight for the length of a block."""
    before = getattr(owner, name)
    setattr(owner, name, nn.Parameter(weight, requires_grad=False))
    try:
        yield
    finally:
        setattr(owner, name, before)
