"""Put an adapter on a loaded model, and make sure that PEFT put it exactly where the settings say."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_studio.adapters.config import to_lora_config
from lora_studio.core.counts import trainable_parameters
from lora_studio.core.errors import StudioError
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import Resolution, resolve

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

_UNUSED_KEYS = r"The following (rank|alpha)_pattern keys did not match any targeted module"


@dataclass(frozen=True)
class Wrapped:
    """What PEFT made of one module.

    Attributes:
        r: Its rank.
        scaling: The scale of its update.
        path: The wrapped module's name in the model with the adapter, which its tensors' names begin with.
    """

    r: int
    scaling: float
    path: str = ""


def inject(model: PreTrainedModel, adapter: AdapterSettings, seed: int | None = None) -> PeftModel:
    """Wrap a base model's targets; A and B are in the adapter's dtype, B is zero, all else is frozen.

    Args:
        model: The base model, without an adapter. It is changed in place.
        adapter: The settings.
        seed: Decides A, the same on every device; None draws from torch's generator as it stands.

    Raises:
        InputError: The settings match nothing, or cannot go on this model (a tied embedding, dropout on fused experts).
        StudioError: PEFT refused, or wrapped other modules than the settings say; the model should be loaded afresh.
    """
    import torch
    from peft import get_peft_model

    from lora_studio.models.inspect import tree_of

    tree = tree_of(model)
    resolution = resolve(adapter, tree).check()
    config = to_lora_config(adapter, tree)
    try:
        with _seeded(seed), _without_false_alarms():
            peft_model: Any = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        message = f"PEFT refused the adapter: {(str(error).strip() or type(error).__name__).splitlines()[0][:300]}"
        raise StudioError(message, "Choose other targets or settings.", "adapter.target_modules") from error
    _check_injection(peft_model, resolution, trainable_parameters(adapter, tree, resolution))
    _cast_adapter(peft_model, getattr(torch, adapter.dtype))
    _raise_trained_copies(peft_model)
    return peft_model


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Count the parameters that train and all of them, as PEFT's `get_nb_trainable_parameters()` does."""
    from lora_studio.models.inspect import elements

    sizes = [(elements(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def wrapped_modules(model: nn.Module) -> dict[str, Wrapped]:
    """Return what carries an adapter, by its name in the base model; a fused parameter as `<module>.<parameter>`."""
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    found: dict[str, Wrapped] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer) or not module.r:
            continue
        base_name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        own = f".{module.parameter_name}" if isinstance(module, ParamWrapper) else ""
        adapter_name = next(iter(module.r))
        found[base_name + own] = Wrapped(module.r[adapter_name], module.scaling[adapter_name], name)
    return found


def _check_injection(model: nn.Module, resolution: Resolution, trainable: int) -> None:
    power = 0.5 if resolution.adapter.use_rslora else 1
    found = wrapped_modules(model)
    wanted = {target.name: Wrapped(target.r, target.lora_alpha / target.r**power) for target in resolution.targets}
    for name in (wanted.keys() ^ found.keys()) | {name for name in wanted.keys() & found.keys() if not _agree(wanted[name], found[name])}:
        raise StudioError(
            f"PEFT made {found.get(name, 'nothing')} of {name} where the settings say {wanted.get(name, 'nothing')}.",
            "Nothing was trained. Tick the modules again in the tree.",
            "adapter.target_modules",
        )
    trains = parameter_counts(model)[0]
    if trains != trainable:
        message = f"{trains:,} parameters would train where the settings say {trainable:,}."
        raise StudioError(message, "Nothing was trained.", "adapter.modules_to_save")


def _agree(wanted: Wrapped, found: Wrapped) -> bool:
    return wanted.r == found.r and math.isclose(wanted.scaling, found.scaling)


def _cast_adapter(model: nn.Module, dtype: Any) -> None:
    """Store A, B and magnitudes in `dtype`."""
    from peft.tuners.lora.layer import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for part in module.adapter_layer_names:
                getattr(module, part).to(dtype)


def _raise_trained_copies(model: nn.Module) -> None:
    """Hold copies trained in full, and trained biases, in no less than float32.

    In half precision most of their updates would be rounded away, and float16 gradients cannot be unscaled.
    """
    import torch

    halves = (torch.float16, torch.bfloat16)
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if ".lora_" in name or not any(parameter.requires_grad and parameter.dtype in halves for parameter in own.values()):
            continue
        for parameter in own.values():  # a norm computes in one dtype: its weight goes with its bias; a frozen matrix stays
            if parameter.requires_grad or parameter.dim() == 1:
                parameter.data = parameter.data.float()


@contextlib.contextmanager
def _seeded(seed: int | None) -> Generator[None]:
    """PEFT draws A on the CPU, so the CPU's generator decides it; it is put back afterwards."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _without_false_alarms() -> Generator[None]:
    """PEFT looks for pattern keys among modules alone and warns of those meant for fused parameters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_UNUSED_KEYS, category=RuntimeWarning)
        yield
