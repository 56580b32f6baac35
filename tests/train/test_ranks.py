"""Two processes train what one does: over gloo, on the processor, with real processes that meet through a real store."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.events import RunEvent, event_from_json, event_to_json
from lora_studio.core.runs import RunFolder
from tests.train.helpers import losses, new_run, run_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over forkserver")
STEPS = 10


@dataclass
class Told:
    """What one rank has to say once it is over."""

    size: int = 0
    events: list[RunEvent] = field(default_factory=list)
    ended: str = ""
    words: str = ""


def be_rank(rank: int, size: int, port: int, run_dir: str, resume: bool, wish: str, out: str) -> None:
    """Be one of the processes of a run; `wish` names what happens to it."""
    os.environ.update({
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "RANK": str(rank),
        "LOCAL_RANK": str(rank)})
    import torch
    import torch.distributed as dist

    from lora_studio.core.control import TaskContext
    from lora_studio.train.engine import follow, train

    torch.set_num_threads(1)
    context, told = TaskContext(), {"size": 1, "events": [], "ended": "", "words": ""}
    with wishes(wish, rank):
        try:
            for event in follow(context) if rank else train(context, run_dir, resume):
                told["size"] = dist.get_world_size() if size > 1 else 1
                told["events"].append(event_to_json(event))
                if wish == "stop" and rank == 0 and event.step == 3:
                    context.control.stop()
                if wish == "die" and rank == 1 and event.step == 3:
                    os._exit(9)
        except BaseException as error:
            told["ended"], told["words"] = type(error).__name__, f"{error}\n{traceback.format_exc()}"
    Path(out).write_text(json.dumps(told))


@contextmanager
def wishes(wish: str, rank: int) -> Iterator[None]:
    """Let rank 1 alone run out of memory on more than one row."""
    from lora_studio.train.stepper import Stepper

    kept = Stepper._gradient_of

    def scarce(self: Any, batch: Any, trained_tokens: float) -> Any:
        if batch.input_ids.shape[0] > 1:
            raise MemoryError
        return kept(self, batch, trained_tokens)

    if wish == "scarce" and rank == 1:
        Stepper._gradient_of = scarce
    yield
    Stepper._gradient_of = kept


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "lora_studio.train.engine", "transformers.models.llama.modeling_llama", "torch.distributed.fsdp", __name__])
    return context


def together(children: ForkServerContext, run: RunFolder, size: int, resume: bool = False, wish: str = "") -> list[Told]:
    """Train a run in so many processes; give what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outs = [run.path.parent / f"{run.path.name}-{rank}.json" for rank in range(size)]
    processes = [
        children.Process(target=be_rank, args=(rank, size, port, str(run.path), resume, wish, str(out))) for rank, out in enumerate(outs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert not process.is_alive()
    return [told_by(out) for out in outs]


def told_by(out: Path) -> Told:
    if not out.exists():
        return Told()
    raw = json.loads(out.read_text())
    out.unlink()
    return Told(raw["size"], [event_from_json(line) for line in raw["events"]], raw["ended"], raw["words"])


@pytest.fixture
def make(tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path: Path) -> Callable[[str, Mapping[str, object]], RunFolder]:
    """A run of ten steps of eight rows each: dropout is 0, so that what differs is rounding."""
    def made(name: str, changes: Mapping[str, object]) -> RunFolder:
        return new_run(tmp_path / name, run_config(tiny_model("llama"), chat_rows, {
            "training.max_steps": STEPS, "training.save_steps": 4, "training.eval_steps": 5, "training.compute_dtype": "float32",
            "training.sample_rows": 1, **changes}))

    return made


ALONE = {"training.gradient_accumulation_steps": 2}
PAIR = {"training.num_processes": 2}


def of_kind(told: Told, kind: type) -> list[Any]:
    return [event for event in told.events if isinstance(event, kind)]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(children: ForkServerContext, make: Any, kind: str) -> None:
    (alone,) = together(children, make("alone", ALONE), 1)
    run = make("pair", {**PAIR, "training.distributed_type": kind})
    pair = together(children, run, 2)
    assert [(told.size, told.ended) for told in pair] == [(2, ""), (2, "")], [told.words for told in pair]
    assert len(losses(alone.events)) == STEPS
    assert losses(pair[0].events) == pytest.approx(losses(alone.events), rel=1e-4)
    assert losses(pair[1].events) == losses(pair[0].events)
