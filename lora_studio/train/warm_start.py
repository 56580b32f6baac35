"""Beginning from an adapter that is there already: its update, put into the new adapter exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor

from lora_studio.adapters.inject import Wrapped, wrapped_modules
from lora_studio.adapters.put_on import set_tensors
from lora_studio.adapters.saved_adapter import AdapterTensors, SavedPair, parameter_of, parted
from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.inference.warm_start import FIELD, open_warm, whole_of


@torch.no_grad()
def warm_up(model: PeftModel, source: str, tree: ModuleTree) -> list[str]:
    """Put the update of a saved adapter into a freshly made one; give the modules that it says nothing of, which start from zero.

    A larger rank takes the same update and has room beside it: its further rows of A stay as they were drawn, its columns of B zero. What
    scales the updates goes into B, so that the first step starts from base + adapter to the last bit of the factors' products.

    Args:
        model: With its adapter, B zero.
        source: A run, a checkpoint or any PEFT adapter folder, which `inference.warm_start` found to fit.
        tree: The base's modules.

    Raises:
        InputError: The adapter's files changed meanwhile, and cannot be read.
    """
    adapter = open_warm(source, tree)
    own: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    wrapped = wrapped_modules(model)
    taken: dict[str, Tensor] = {}
    try:
        with adapter.reading() as tensors:
            for name, pair in adapter.pairs.items():
                taken |= dict(_taken(pair, wrapped[name], own, tensors))
            whole = {parameter_of(key): key for key in own if parted(key) is None}
            taken |= {whole[name]: tensors.get(key).to(own[whole[name]]) for name, key in whole_of(adapter, tree).items()}
    except (OSError, KeyError, SafetensorError) as error:
        message = f"The adapter in {adapter.folder} cannot be read: {error}."
        raise InputError(message, "Copy it again from where it came from.", FIELD) from error
    set_tensors(model, {**own, **taken})
    return sorted({*(name for name in wrapped if name not in adapter.pairs), *(name for name, key in whole.items() if key not in taken)})


def _taken(pair: SavedPair, wrapped: Wrapped, own: Mapping[str, Tensor], tensors: AdapterTensors) -> Iterator[tuple[str, Tensor]]:
    """Yield the new tensors of one module: its update in the shape and scale that the new adapter has there.

    PEFT keeps the A of fused experts as experts·r × in, one expert after the other, and B as out × r·experts, the experts innermost.
    """
    kind, ending = ("lora_embedding", "") if pair.embedding else ("lora", ".weight")
    a_key, b_key = (f"{wrapped.path}.{kind}_{factor}{ending}" for factor in "AB")
    experts = max(1, pair.experts)
    a_eri, b_ore = own[a_key].unflatten(0, (experts, -1)).clone(), torch.zeros_like(own[b_key]).unflatten(1, (-1, experts))
    a_eri[:, : pair.r] = tensors.get(pair.a_key).to(a_eri).unflatten(0, (experts, -1))
    b_ore[:, : pair.r] = tensors.get(pair.b_key).float().unflatten(1, (-1, experts)) * (pair.scale / wrapped.scaling)
    yield a_key, a_eri.flatten(0, 1)
    yield b_key, b_ore.flatten(1, 2)
    if pair.magnitude_key:
        key = next(key for key in own if key.startswith(f"{wrapped.path}.lora_magnitude_vector"))
        yield key, tensors.get(pair.magnitude_key).to(own[key])
