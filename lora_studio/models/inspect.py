"""The module tree of a base model, from its config.json alone: built on the meta device, so no weight is read.

What an adapter can go on is what PEFT wraps: Linear, transformers' Conv1D (weights stored in × out), embeddings, and fused
expert weights (3-D parameters, reached by `target_parameters`). Sizes are those of the adapter's A and B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.modules import Kind, ModuleInfo, ModuleTree
from lora_studio.models.check import FIELD, read_config
from lora_studio.models.prepare import prepare
from lora_studio.models.tree_cache import cached_tree, keep_tree

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def inspect(context: TaskContext, name_or_path: str, revision: str | None = None) -> Iterator[RunEvent]:
    """Task: make a model ready on disk and its module tree cached; result `{"path"}`."""
    result: dict[str, Any] = {}
    for event in prepare(context, name_or_path, revision, weights=False):
        if isinstance(event, RunFinished):
            result = event.result
        else:
            yield event
    yield Phase(name="loading", message="Reading the modules")
    import_engine()
    inspect_model(Path(result["path"]))
    yield RunFinished(result=result)


def inspect_model(folder: Path) -> ModuleTree:
    """Give the module tree of a model's folder; one with only config.json will do.

    Raises:
        InputError: It is no model, asks for code of its own, or is of a family transformers does not know.
    """
    read_config(folder)
    known = cached_tree(folder)
    if known is not None:
        return known
    tree = tree_of(empty_model(folder))
    keep_tree(folder, tree)
    return tree


def empty_model(folder: Path) -> PreTrainedModel:
    """Build a model's modules on the meta device from its config alone; embeddings are tied as they will be.

    Raises:
        InputError: transformers does not know the family, or it generates no text, or the config contradicts itself.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation="eager")
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            message = f"{folder} is of the family {config.model_type}, which is no causal language model."
            raise InputError(message, "Choose a model that generates text.", FIELD) from error
        raise _contradiction(folder, error) from error
    except (TypeError, KeyError, AttributeError, ImportError, RuntimeError, ZeroDivisionError, AssertionError, IndexError) as error:
        raise _contradiction(folder, error) from error
    model.tie_weights()
    return model


def load_config(folder: Path) -> Any:
    """Read config.json as a transformers config, having looked at it first.

    Raises:
        InputError: It is malformed or refused, or of a family transformers does not know.
    """
    from transformers import AutoConfig
    from transformers import __version__ as version

    raw = read_config(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError) as error:
        if "does not recognize this architecture" in str(error):
            raise InputError(
                f"{folder} is of the family {raw['model_type']}, which transformers {version} does not know.",
                "Choose another model, or a newer version of transformers.", FIELD,
            ) from error
        raise _contradiction(folder, error) from error
    except Exception as error:  # transformers validates configs with errors of several libraries
        raise _contradiction(folder, error) from error
    return config


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Give a weight's shape; of one packed in 4 bits, what it was packed from."""
    state: Any = getattr(tensor, "quant_state", None)
    return tuple(tensor.shape if state is None else state.shape)


def elements(parameter: Any) -> int:
    """Count a parameter's numbers, however they are packed."""
    return math.prod(shape_of(parameter))


def tree_of(model: PreTrainedModel) -> ModuleTree:
    """Describe every module of a model, on the meta device or not, quantized or not."""
    output = model.get_output_embeddings()
    sharing = _modules_by_weight(model)
    modules: list[ModuleInfo] = []
    for name, module in model.named_modules():
        modules.append(_describe(name, module, sharing))
        modules.extend(_lone_parameters(name, module))
    named = dict(model.named_parameters())
    return ModuleTree(
        architecture=type(model).__name__,
        model_type=str(model.config.model_type),
        all_parameters=sum(elements(parameter) for parameter in named.values()),
        tied_embeddings=output is not None and len(sharing.get(id(output.weight), ())) > 1,
        output_module=next((name for name, module in model.named_modules() if module is output), ""),
        bias_parameters=sum(elements(parameter) for name, parameter in named.items() if "bias" in name),
        modules=tuple(modules),
    )


def _modules_by_weight(model: nn.Module) -> dict[int, list[str]]:
    """Map each weight, by identity, to the modules that hold it, in order."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            holders.setdefault(id(weight), []).append(name)
    return holders


def _describe(name: str, module: nn.Module, sharing: dict[int, list[str]]) -> ModuleInfo:
    import torch

    weight: Any = getattr(module, "weight", None)
    has_weight = isinstance(weight, torch.Tensor)
    holders = sharing.get(id(weight), [name]) if has_weight else [name]
    others = [holder for holder in holders if holder != name]
    kind, in_features, out_features = _adapter_sizes(module)
    reason = _why_not(module, kind, others[0] if others else "")
    return ModuleInfo(
        name=name,
        class_name=type(module).__name__,
        kind=kind,
        shape=shape_of(weight) if has_weight else (),
        parameters=sum(elements(parameter) for parameter in module.parameters()),
        own_parameters=sum(elements(parameter) for parameter in module.parameters(recurse=False)),
        in_features=in_features,
        out_features=out_features,
        targetable=not reason,
        reason=reason,
        tied_to=holders[0] if holders[0] != name else "",
        has_bias=isinstance(getattr(module, "bias", None), torch.Tensor),
    )


def _adapter_sizes(module: nn.Module) -> tuple[Kind, int, int]:
    """Give a module's kind, what an adapter's A reads and what its B writes."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return "linear", module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return "conv1d", int(module.weight.shape[0]), int(module.weight.shape[1])
    if isinstance(module, nn.Embedding):
        return "embedding", module.num_embeddings, module.embedding_dim
    return "other", 0, 0


def _why_not(module: nn.Module, kind: Kind, tied_to: str) -> str:
    """Say why no adapter goes on a module; empty when one can.

    A tied weight is refused: PEFT trains an adapter on one of its two places and merges it into both.
    """
    if kind != "other":
        return f"tied to {tied_to}: an adapter here would merge wrongly; modules_to_save trains it whole" if tied_to else ""
    if any(True for _ in module.children()):
        return "holds other modules"
    own = [parameter.dim() for parameter in module.parameters(recurse=False)]
    if not own:
        return "has no weights"
    if max(own) <= 1:
        return "has no matrix, only a vector of weights"
    if _is_fused_experts(module) or _is_router(module):
        return "its weights are chosen one by one below"
    return f"no adapter is offered for {type(module).__name__}"


def _is_fused_experts(module: nn.Module) -> bool:
    from torch import nn

    is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return not is_convolution and any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))


def _is_router(module: nn.Module) -> bool:
    """Say whether a module is a mixture's router that keeps its matrix as a bare parameter."""
    weight = getattr(module, "weight", None)
    name = type(module).__name__
    return weight is not None and weight.dim() == 2 and ("Router" in name or "Gate" in name) and _adapter_sizes(module)[0] == "other"


def _lone_parameters(name: str, module: nn.Module) -> Iterator[ModuleInfo]:
    """Give the parameters of a module that `target_parameters` reaches: fused experts, and the router beside them.

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
            name=f"{name}.{parameter_name}", class_name="Parameter", kind="experts", shape=shape, parameters=parameter.numel(),
            in_features=in_features, out_features=out_features, num_experts=shape[0] if fused else 1, targetable=True,
        )


def _contradiction(folder: Path, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0][:300]
    return InputError(f"{folder / 'config.json'} cannot be used: {first_line}", "Download or copy the model again.", FIELD)
