"""Several processes that train together, as far as one device goes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.call import Row, Setting
from benchmarks.gpu.common import distance, events_of, farthest, gradients, losses_of, place, tiny_adapted, tiny_run
from lora_studio.core.control import Control, TaskContext
from lora_studio.core.events import RunEvent, event_from_json, event_to_json
from lora_studio.core.world import World
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.head import SelectedHead
from lora_studio.train import distributed
from lora_studio.train.engine import follow, train
from lora_studio.train.rendezvous import meet
from tests.train.helpers import token_rows


def gloo(setting: Setting) -> Iterator[Row]:
    """Train with two processes on one device, gradients carried by gloo: the losses are those of one process."""
    changes = {"adapter.lora_dropout": 0.0, "training.compute_dtype": "float32", "model.dtype": "float32"}
    place(setting)
    alone = tiny_run(setting, "alone", {**changes, "training.gradient_accumulation_steps": 2})  # a step takes the same rows
    wanted = losses_of(list(events_of(alone)))
    run = tiny_run(setting, "pair", {**changes, "training.num_processes": 2})
    told = Path(setting.folder) / "pair.jsonl"
    port = _free_port()
    other: Any = multiprocessing.get_context("fork" if setting.device == "cpu" else "spawn").Process(
        target=_be_rank, args=(1, port, str(run.path), "")
    )
    other.start()
    try:
        _be_rank(0, port, str(run.path), str(told))
        other.join(10)
    finally:
        other.kill()
        other.join()
    events = [event_from_json(line) for line in told.read_text(encoding="utf-8").splitlines()]
    found = losses_of(events)
    off = farthest(found, wanted)
    yield Row("two processes against one", {"steps": len(found), "largest loss off": off}, len(found) == 6 and off <= 1e-4)


def _be_rank(rank: int, port: int, run_dir: str, to: str) -> None:
    """Be one of two processes; each takes the device for its own, and gloo carries what they share."""
    os.environ.update(
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "LOCAL_WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
        }
    )
    torch.set_num_threads(1)
    distributed.DistributedRanks.take_device = _take_over_gloo  # type: ignore[method-assign]  # NCCL refuses two ranks on one card
    context = TaskContext()
    events: list[RunEvent] = list(follow(context) if rank else train(context, run_dir))
    for name in ("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"):
        del os.environ[name]
    if to:
        Path(to).write_text("\n".join(map(event_to_json, events)) + "\n", encoding="utf-8")


def _take_over_gloo(self: distributed.DistributedRanks, device: torch.device, sharded: bool) -> None:
    self._device, self.sharded = device, sharded


def nccl(setting: Setting) -> Iterator[Row]:
    """Carry gradients, weights and moments by NCCL in a world of one: all arrive as they were."""
    import torch.distributed as dist

    device = place(setting)
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "1", "RANK": "0"})
    world = World.of()
    meeting = meet(world, Control())
    dist.init_process_group("gloo", store=meeting.for_group(), rank=0, world_size=1)
    ranks = distributed.DistributedRanks(world, meeting)
    ranks.take_device(device, sharded=False)
    model = tiny_adapted(setting, "llama")
    wanted = _gradients_of(model)
    loss = _backward(model)
    parameters = [own for own in model.parameters() if own.requires_grad]
    summed = ranks.add_gradients(parameters, loss)
    found = gradients(model)
    before = [own.detach().clone() for own in parameters]
    ranks.broadcast_parameters({name: own for name, own in model.named_parameters() if own.requires_grad}, torch.optim.AdamW(parameters))
    same = all(torch.equal(one, other) for one, other in zip(before, parameters, strict=True))
    off = distance(found, wanted)
    yield Row("a flat sum of gradients and loss", {"backend": ranks.backend, "gradient off": off, "loss": float(summed or 0)}, off <= 1e-6)
    yield Row("weights and moments spread", {"same": same}, same)
    dist.destroy_process_group()


def _backward(model: Any) -> torch.Tensor:
    batch = make_batch(token_rows(4)).to(next(model.parameters()).device)
    with SelectedHead(model) as head:
        loss = head.loss_sum(batch) / len(batch.targets)
        loss.backward()
    return loss.detach()


def _gradients_of(model: Any) -> dict[str, torch.Tensor]:
    _backward(model)
    return gradients(model)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
