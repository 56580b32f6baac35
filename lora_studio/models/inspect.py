"""The module tree of a base model, from its config.json alone: built on the meta device, so no weight is read.

What an adapter can go on is `models.wrappable`'s to say, and what it would learn nothing on is tried out by `models.trial`. Sizes are those
of the adapter's A and B.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.errors import InputError
from lora_studio.core.events import Phase, RunEvent, RunFinished
from lora_studio.core.modules import ModuleInfo, ModuleTree
from lora_studio.models.check import FIELD, read_model_config
from lora_studio.models.peft_names import UNREAD, unread_modules
from lora_studio.models.prepare import prepare
from lora_studio.models.tree_cache import cached_tree, keep_tree
from lora_studio.models.wrappable import Refusals, adapter_sizes, lone_parameters

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
    """Return the module tree of a model's folder; one with only config.json will do.

    Raises:
        InputError: It is no model, asks for code of its own, or is of a family transformers does not know.
    """
    read_model_config(folder)
    known = cached_tree(folder)
    if known is not None:
        return known
    from lora_studio.models.trial import idle_modules

    model = empty_model(folder)
    tree = tree_of(model)
    idle = idle_modules(model, [module.name for module in tree.targetable])
    tree = replace(tree, modules=tuple(replace(module, idle=idle.get(module.name, "")) for module in tree.modules))
    keep_tree(folder, tree)
    return tree


def empty_model(folder: Path) -> PreTrainedModel:
    """Build a model's modules on the meta device from its config alone; embeddings are tied as they will be.

    Raises:
        InputError: transformers does not know the family, or it generates no text, or the config contradicts itself.
    """
    import torch

    config = load_config(folder)
    try:
        with torch.device("meta"):
            model = auto_class(config).from_config(config, trust_remote_code=False, attn_implementation="eager")
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            message = f"{folder} is of the family {config.model_type}, which is no causal language model."
            raise InputError(message, "Choose a model that generates text.", FIELD) from error
        raise _contradiction(folder, error) from error
    except (TypeError, KeyError, AttributeError, ImportError, RuntimeError, ZeroDivisionError, AssertionError, IndexError) as error:
        raise _contradiction(folder, error) from error
    model.tie_weights()
    return model


def auto_class(config: Any) -> Any:
    """Return the class of transformers that makes a model of a config: for text, or with images where a family has none for text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    known: list[Any] = [MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING]
    of_text, of_images = (type(config) in mapping for mapping in known)
    return AutoModelForImageTextToText if of_images and not of_text else AutoModelForCausalLM


def load_config(folder: Path) -> Any:
    """Read config.json as a transformers config, having looked at it first.

    Raises:
        InputError: It is malformed or refused, or of a family transformers does not know.
    """
    from transformers import AutoConfig
    from transformers import __version__ as version

    raw = read_model_config(folder)
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError) as error:
        if "does not recognize this architecture" in str(error):
            raise InputError(
                f"{folder} is of the family {raw['model_type']}, which transformers {version} does not know.",
                "Choose another model, or a newer version of transformers.",
                FIELD,
            ) from error
        raise _contradiction(folder, error) from error
    except Exception as error:  # transformers validates configs with errors of several libraries
        raise _contradiction(folder, error) from error
    return config


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return a weight's shape; of one packed in 4 bits, what it was packed from."""
    state: Any = getattr(tensor, "quant_state", None)
    return tuple(tensor.shape if state is None else state.shape)


def elements(parameter: Any) -> int:
    """Count a parameter's numbers, however they are packed."""
    return math.prod(shape_of(parameter))


def tree_of(model: PreTrainedModel) -> ModuleTree:
    """Describe every module of a model, on the meta device or not, quantized or not."""
    output = model.get_output_embeddings()
    sharing = _modules_by_weight(model)
    refusals = Refusals(str(model.config.model_type))
    modules: list[ModuleInfo] = []
    for name, module in model.named_modules():
        modules.append(_describe(name, module, sharing, refusals))
        modules.extend(lone_parameters(name, module))
    unread = unread_modules(model, [module.name for module in modules if module.targetable and module.kind != "experts"])
    named = dict(model.named_parameters())
    return ModuleTree(
        architecture=type(model).__name__,
        model_type=str(model.config.model_type),
        all_parameters=sum(elements(parameter) for parameter in named.values()),
        tied_embeddings=output is not None and len(sharing.get(id(output.weight), ())) > 1,
        output_module=next((name for name, module in model.named_modules() if module is output), ""),
        bias_parameters=sum(elements(parameter) for name, parameter in named.items() if "bias" in name),
        modules=tuple(replace(module, targetable=False, reason=UNREAD) if module.name in unread else module for module in modules),
    )


def _modules_by_weight(model: nn.Module) -> dict[int, list[str]]:
    """Map each weight, by identity, to the modules that hold it, in order."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            holders.setdefault(id(weight), []).append(name)
    return holders


def _describe(name: str, module: nn.Module, sharing: dict[int, list[str]], refusals: Refusals) -> ModuleInfo:
    import torch

    weight: Any = getattr(module, "weight", None)
    has_weight = isinstance(weight, torch.Tensor)
    holders = sharing.get(id(weight), [name]) if has_weight else [name]
    others = [holder for holder in holders if holder != name]
    kind, in_features, out_features = adapter_sizes(module)
    reason = refusals.why_not(name, module, kind, others[0] if others else "")
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


def _contradiction(folder: Path, error: Exception) -> InputError:
    first_line = str(error).strip().split("\n")[0][:300]
    return InputError(f"{folder / 'config.json'} cannot be used: {first_line}", "Download or copy the model again.", FIELD)
