"""What of a model an adapter can go on, as PEFT 0.21 wraps it, and why not on the rest.

It goes on Linear, transformers' Conv1D (weights stored in × out), embeddings, and fused expert weights (3-D parameters, reached by
`target_parameters`). A class of transformers that is a Linear or an Embedding by descent alone (a router that gives a tuple, positions that
count by themselves) is tried on a few numbers: PEFT adds B·A·x to what it gives, which must be W·x.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lora_studio.core.modules import ModuleInfo, ModuleKind

if TYPE_CHECKING:
    import torch
    from torch import nn

MAMBA_FAMILIES = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
MAMBA_REFUSED = frozenset({"out_proj", "conv1d"})
"""Names that PEFT refuses in those families, whatever they stand for: `_check_lora_target_modules_mamba` in `peft.tuners.tuners_utils`."""
_TRIED_WEIGHTS = 1 << 26  # weights of a module that is tried on numbers: more would take too much memory for an inspection


def adapter_sizes(module: nn.Module) -> tuple[ModuleKind, int, int]:
    """Return a module's kind, what an adapter's A reads and what its B writes."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return "linear", module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return "conv1d", int(module.weight.shape[0]), int(module.weight.shape[1])
    if isinstance(module, nn.Embedding):
        return "embedding", module.num_embeddings, module.embedding_dim
    return "other", 0, 0


class Refusals:
    """Why modules of one model get no adapter; each class is tried once."""

    def __init__(self, model_type: str) -> None:
        """Take the family, some of which PEFT refuses modules of by name."""
        self._model_type = model_type
        self._by_class: dict[type, str] = {}

    def why_not(self, name: str, module: nn.Module, kind: ModuleKind, tied_to: str) -> str:
        """Say why no adapter goes on a module; empty when one can.

        A tied weight is refused: PEFT trains an adapter on one of its two places and merges it into both.
        """
        if kind == "other":
            return _why_no_kind(module)
        if tied_to:
            return f"tied to {tied_to}: an adapter here would merge wrongly; modules_to_save trains it whole"
        leaf = name.rpartition(".")[2]
        if leaf in MAMBA_REFUSED and self._model_type in MAMBA_FAMILIES:
            return f"PEFT refuses every {leaf} in the family {self._model_type}, whose kernels read its weight past an adapter"
        found = self._by_class.get(type(module))
        if found is None:
            found = self._by_class[type(module)] = _why_unlike(module)
        return found


def _why_no_kind(module: nn.Module) -> str:
    if any(True for _ in module.children()):
        return "holds other modules"
    own = [parameter.dim() for parameter in module.parameters(recurse=False)]
    if not own:
        return "has no weights"
    if max(own) <= 1:
        return "has no matrix, only a vector of weights"
    if _is_fused_experts(module) or _is_router(module):
        return "its weights are chosen one by one below"
    if max(own) > 2 and not _is_convolution(module):
        return f"its weights have {max(own)} dimensions and are no experts, which is what PEFT would take them for"
    return f"no adapter is offered for {type(module).__name__}"


def _why_unlike(module: nn.Module) -> str:
    """Say what a class of transformers does other than the Linear or Embedding that it descends from; empty where it is alike."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    name = type(module).__name__
    plain = (nn.Linear, nn.Embedding, Conv1D)
    own_forward = not any(type(module).forward is known.forward for known in plain)
    weight: Any = module.weight
    if not own_forward or not type(module).__module__.startswith("transformers.models.") or weight.numel() > _TRIED_WEIGHTS:
        return ""
    wanted, found = _tried(module)
    if wanted is None:
        return f"{name} computes something of its own, and an adapter expects {'a look-up' if isinstance(module, nn.Embedding) else 'W·x'}"
    if isinstance(found, tuple):
        return f"{name} gives several results, and an adapter expects one"
    return "" if _alike(wanted, found) else f"{name} computes something else than its base class, which is what an adapter adds to"


def _tried(module: nn.Module) -> tuple[torch.Tensor | None, Any]:
    """Return what a module's base class would give for a few numbers, None where the module cannot take them; and what it gives."""
    import torch
    from torch import nn

    numbers = torch.Generator().manual_seed(0)
    trial = copy.copy(module)  # its tables are copied below: a copy shares them with the model's own module
    trial._parameters = {  # pyright: ignore[reportPrivateUsage]
        name: None if parameter is None else nn.Parameter(torch.randn(parameter.shape, generator=numbers), requires_grad=False)
        for name, parameter in module._parameters.items()  # pyright: ignore[reportPrivateUsage]
    }
    trial._buffers = {  # pyright: ignore[reportPrivateUsage]
        name: None if buffer is None else torch.ones(buffer.shape)
        for name, buffer in module._buffers.items()  # pyright: ignore[reportPrivateUsage]
    }
    weight: Any = trial.weight
    try:
        with torch.no_grad(), torch.device("cpu"):
            if isinstance(trial, nn.Embedding):
                given = torch.tensor([[0, trial.num_embeddings - 1, 0]])
                return nn.functional.embedding(given, weight) * float(getattr(trial, "embed_scale", 1.0)), trial.forward(given)
            x = torch.randn((2, 3, weight.shape[1]), generator=numbers)
            return nn.functional.linear(x, weight, getattr(trial, "bias", None)), trial.forward(x)
    except Exception:  # whatever a family's own code raises: it takes something else
        return None, None


def _alike(wanted: torch.Tensor, found: Any) -> bool:
    import torch

    return isinstance(found, torch.Tensor) and found.shape == wanted.shape and torch.allclose(found.float(), wanted, rtol=1e-3, atol=1e-3)


def _is_convolution(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)


def _is_fused_experts(module: nn.Module) -> bool:
    """Return whether a module holds a stack of experts; transformers calls all such classes so, and there are other 3-D weights."""
    stacked = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
    return stacked and "expert" in type(module).__name__.lower() and not _is_convolution(module)


def _is_router(module: nn.Module) -> bool:
    """Return whether a module is a mixture's router that keeps its matrix as a bare parameter."""
    weight = getattr(module, "weight", None)
    name = type(module).__name__
    return weight is not None and weight.dim() == 2 and ("Router" in name or "Gate" in name) and adapter_sizes(module)[0] == "other"


def lone_parameters(name: str, module: nn.Module) -> Iterator[ModuleInfo]:
    """Return the parameters of a module that `target_parameters` reaches: fused experts, and the router beside them.

    PEFT reads a 3-D parameter as (experts, out, in), unless the module says it is transposed, and a 2-D one as (out, in).
    """
    fused = _is_fused_experts(module)
    if not (fused or _is_router(module)):
        return
    transposed = bool(getattr(module, "is_transposed", False))
    for parameter_name, parameter in module.named_parameters(recurse=False):
        shape = tuple(parameter.shape)
        if len(shape) != (3 if fused else 2):
            continue
        out_features, in_features = reversed(shape[-2:]) if transposed and fused else shape[-2:]
        yield ModuleInfo(
            name=f"{name}.{parameter_name}",
            class_name="Parameter",
            kind="experts",
            shape=shape,
            parameters=parameter.numel(),
            in_features=in_features,
            out_features=out_features,
            num_experts=shape[0] if fused else 1,
            targetable=True,
        )
