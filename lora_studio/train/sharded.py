"""FSDP2: the frozen base cut over the ranks, each layer put together for as long as it is at work.

The adapter is left whole on every rank (`ignored_params`): it is small beside the base, it costs 16 bytes a parameter where it trains
in float32, and in return the base takes no gradients, so that nothing has to be scattered; gradients, optimizer, checkpoints and
resuming are those of plain data parallelism.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.events import RunEvent
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.inference.ready import ReadyBase, load_base
from lora_studio.models.facts import read_facts
from lora_studio.models.load import pick_device, pick_dtype
from lora_studio.train.interrupt import decoder_layers


def load_to_shard(
    context: TaskContext,
    config: RunConfig,
    folder: Path,
    commit: str,
    dtype: torch.dtype | None,
) -> Generator[RunEvent, None, ReadyBase]:
    """Load a base model that may not fit on one card: into this machine's memory, in the dtype that suits the card it is meant for.

    Args:
        context: Holds the warm model.
        config: The run.
        folder: Where the model is ready.
        commit: Of a Hub model.
        dtype: Takes the place of `model.dtype`.
    """
    device = pick_device(config.training.device)
    held = dtype or pick_dtype(device, config.model.dtype, read_facts(folder).dtype)
    base = yield from load_base(context, config.model, folder, commit, "cpu", held)
    return replace(base, device=device)


def shard(model: PeftModel, device: torch.device, group: Any) -> None:
    """Spread a model's frozen parameters over the ranks of a process group, layer by layer; what trains stays whole, on `device`.

    Weights are gathered as they are held, so that a pass computes what one process would.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    base = model.get_base_model()
    mesh = DeviceMesh.from_group(group, device.type)
    for layer in decoder_layers(base):
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    # The root's own (embedding and head) stay together from the forward pass to the end of the backward pass: the loss is taken between.
    fully_shard(base, mesh=mesh, ignored_params=trained, reshard_after_forward=False)


@contextlib.contextmanager
def let_go_after(host: LoadedModel, sharded: bool) -> Generator[None]:
    """Let a base that was cut up go: nobody could use this part of it."""
    try:
        yield
    finally:
        if sharded:
            host.unload()
