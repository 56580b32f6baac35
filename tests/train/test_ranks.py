"""Two processes train what one does: over gloo, on the processor, with real processes that meet through a real store."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.control import Control
from lora_studio.core.errors import StudioError
from lora_studio.core.events import (
    CheckpointSaved,
    Evaluation,
    Notice,
    Paused,
    RunEvent,
    RunFinished,
    Sample,
    Step,
    event_from_json,
    event_to_json,
)
from lora_studio.core.files import sha256_of
from lora_studio.core.runs import RunFolder
from lora_studio.core.world import STARTED, World
from lora_studio.train import rendezvous
from tests.patience import Patience
from tests.train.helpers import losses, new_run, run_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo over forkserver")
STEPS = 10


Make = Callable[[str, Mapping[str, object]], RunFolder]
PAIR = {"training.num_processes": 2}


@dataclass
class Told:
    """What one rank has to say once it is over."""

    size: int = 0
    events: list[RunEvent] = field(default_factory=list)
    error: str = ""
    words: str = ""
    weights: str = ""

    def of_kind(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def be_rank(rank: int, size: int, port: int, run_dir: str, resume: bool, wish: str, out: str) -> None:
    """Be one of the processes of a run; `wish` names what happens to it."""
    os.environ.update(
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
    )
    import torch
    import torch.distributed as dist

    from lora_studio.core.control import TaskContext
    from lora_studio.train.engine import follow, train

    torch.set_num_threads(1)
    context, told = TaskContext(), Told(size=1)
    with wished(wish, rank):
        try:
            for event in follow(context) if rank else train(context, run_dir, resume):
                told.size = dist.get_world_size() if size > 1 else 1
                told.events.append(event)
                if wish == "stop" and rank == 0 and event.step == 3:
                    context.control.stop()
                if wish == "ask" and rank == 0 and isinstance(event, Step):
                    ask(context.control, event.step)
                if wish == "die" and rank == 1 and isinstance(event, Step) and event.step == 3:
                    os._exit(9)
                if wish == "silent" and rank == 1 and isinstance(event, Step) and event.step == 3:
                    wait_for_word(Path(out).with_name(Path(out).name.replace("-1.", "-0.")))
                if isinstance(event, RunFinished):
                    told.weights = adapter_digest(context)
        except BaseException as error:
            told.error, told.words = type(error).__name__, f"{error}\n{traceback.format_exc()}"
    events = [event_to_json(event) for event in told.events]
    Path(out).write_text(json.dumps({**vars(told), "events": events}))


def wait_for_word(place: Path) -> None:
    """Do nothing until the first rank has given up and said so."""
    patience = Patience(60)
    while not place.exists() and not patience.is_over():
        time.sleep(0.1)


def ask(control: Any, step: int) -> None:
    """Ask for all that may be asked for, but for an end."""
    if step == 1:
        control.checkpoint_now()
        control.sample_now()
    elif step == 6:
        control.pause()
        threading.Timer(0.5, control.resume).start()


def adapter_digest(context: Any) -> str:
    """Return a digest of the weights that this rank has trained; the adapter is still on."""
    from lora_studio.inference.loaded_model import LoadedModel

    model = LoadedModel.of(context)._base
    assert model is not None
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def wished(wish: str, rank: int) -> Iterator[None]:
    """Let rank 1 alone run out of memory on more than one row, or be of another release."""
    from lora_studio.train.stepper import Stepper

    taken = Stepper._gradient_of

    def scarce(self: Any, batch: Any, trained_tokens: float) -> Any:
        if len(batch.counts) > 1:
            raise MemoryError
        return taken(self, batch, trained_tokens)

    with pytest.MonkeyPatch.context() as patch:
        if rank == 1 and wish == "scarce":
            patch.setattr(Stepper, "_gradient_of", scarce)
        if wish == "silent":
            patch.setattr("lora_studio.train.distributed._PROMPT", timedelta(seconds=5))
        if rank == 1 and wish == "unlike":
            patch.setattr("lora_studio.train.records.__version__", "0.0")
        yield


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Children that have torch, transformers and peft already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["lora_studio.train.engine", "transformers.models.llama.modeling_llama", "torch.distributed.fsdp", __name__]
    )
    return context


@pytest.fixture(scope="module")
def make(tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Runs of ten steps of eight rows each. Dropout is 0, so that what differs is rounding."""
    folder = tmp_path_factory.mktemp("ranks")

    def made(name: str, changes: Mapping[str, object]) -> RunFolder:
        return new_run(
            folder / name,
            run_config(
                tiny_model("llama"),
                chat_rows,
                {
                    "training.max_steps": STEPS,
                    "training.save_steps": 4,
                    "training.eval_steps": 5,
                    "training.compute_dtype": "float32",
                    "training.sample_rows": 1,
                    **changes,
                },
            ),
        )

    return made


def together(children: ForkServerContext, run: RunFolder, size: int, resume: bool = False, wish: str = "") -> list[Told]:
    """Train a run in so many processes; give what each said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outs = [run.path.parent / f"{run.name}-{rank}.json" for rank in range(size)]
    processes = [
        children.Process(target=be_rank, args=(rank, size, port, str(run.path), resume, wish, str(out))) for rank, out in enumerate(outs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
        process.join()
    assert not hung
    return [read_told(out) for out in outs]


def read_told(out: Path) -> Told:
    """Read what a rank said, or nothing where it died."""
    if not out.exists():
        return Told()
    raw = json.loads(out.read_text())
    return Told(**{**raw, "events": [event_from_json(line) for line in raw["events"]]})


def check_finished(told: list[Told], size: int) -> None:
    assert [(one.size, one.error) for one in told] == [(size, "")] * size, [one.words for one in told]


@pytest.fixture(scope="module")
def alone(children: ForkServerContext, make: Make) -> Told:
    """One process, in two passes a step."""
    told = together(children, make("alone", {"training.gradient_accumulation_steps": 2}), 1)
    check_finished(told, 1)
    return told[0]


@pytest.fixture(scope="module")
def stopped(children: ForkServerContext, make: Make) -> tuple[RunFolder, list[Told]]:
    """Two processes, of which the first is asked to stop after three steps."""
    run = make("stopped", PAIR)
    return run, together(children, run, 2, wish="stop")


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_have_the_losses_of_one_at_the_same_global_batch(
    children: ForkServerContext,
    make: Make,
    alone: Told,
    kind: str,
) -> None:
    run = make(kind, {**PAIR, "training.distributed_type": kind, "training.gradient_checkpointing": kind == "fsdp2"})
    pair = together(children, run, 2, wish="ask")
    check_finished(pair, 2)
    first, other = pair
    assert len(losses(first.events)) == STEPS
    assert losses(first.events) == pytest.approx(losses(alone.events), rel=1e-4)
    evaluations = [[event.loss for event in told.of_kind(Evaluation)] for told in (first, alone)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=1e-4)
    assert [event.rows for event in first.of_kind(Evaluation)] == [event.rows for event in alone.of_kind(Evaluation)]
    samples = {event.label: event.text for event in first.of_kind(Sample)}
    assert [samples["before"], samples["after"]] == [event.text for event in alone.of_kind(Sample)]
    assert "step" in samples
    assert len(first.of_kind(Paused)) == len(other.of_kind(Paused)) == 1
    assert first.of_kind(CheckpointSaved)[0].step in (1, 2)
    assert first.weights == other.weights != ""

    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["processes"] == {"count": 2, "backend": "gloo", "sharded": kind == "fsdp2"}
    assert [folder.name for folder in run.checkpoints][1:] == ["step-000008", "step-000010"]
    result = first.of_kind(RunFinished)[0].result
    assert sha256_of(run.adapter_path / "adapter_model.safetensors") == result["adapter_sha256"]


def test_a_stop_ends_all_processes_with_the_work_saved(stopped: tuple[RunFolder, list[Told]]) -> None:
    run, told = stopped
    assert [one.error for one in told] == ["Cancelled", "Cancelled"], [one.words for one in told]
    steps = [one.of_kind(Step)[-1].step for one in told]
    assert steps[0] == steps[1] < STEPS
    assert run.checkpoints[-1].name == f"step-{steps[0]:06d}"


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_of_two_processes_goes_on_in_one_or_two(
    children: ForkServerContext,
    stopped: tuple[RunFolder, list[Told]],
    alone: Told,
    size: int,
) -> None:
    run = RunFolder(shutil.copytree(stopped[0].path, stopped[0].path.with_name(f"again-{size}")))
    before = losses(stopped[1][0].events)
    told = together(children, run, size, resume=True)
    check_finished(told, size)
    assert before + losses(told[0].events) == pytest.approx(losses(alone.events), rel=1e-4)
    changed = [event for event in told[0].of_kind(Notice) if event.code == "processes_changed"]
    assert len(changed) == (size == 1)


def test_want_of_memory_in_one_process_halves_the_micro_batches_of_both(children: ForkServerContext, make: Make, alone: Told) -> None:
    pair = together(children, make("scarce", PAIR), 2, wish="scarce")
    check_finished(pair, 2)
    halved = [[event.message for event in told.of_kind(Notice) if event.code == "micro_batch_halved"] for told in pair]
    assert halved[0] == halved[1]
    assert halved[0][-1].endswith("goes on with 1 at a time.")
    assert losses(pair[0].events) == pytest.approx(losses(alone.events), rel=1e-4)


def test_with_a_part_of_the_base_each_want_of_memory_is_told_with_what_to_set(children: ForkServerContext, make: Make) -> None:
    run = make("scarce-parts", {**PAIR, "training.distributed_type": "fsdp2", "training.sample_rows": 0})
    first, other = together(children, run, 2, wish="scarce")
    assert (first.error, other.error) == ("StudioError", "StudioError")
    assert first.words.startswith("Process 1: Out of memory on ")
    assert "Halve per_device_train_batch_size" in first.words


def test_a_process_that_dies_ends_the_run_with_its_work_saved(children: ForkServerContext, make: Make) -> None:
    run = make("died", {**PAIR, "training.sample_rows": 0, "training.eval_steps": STEPS})
    first, other = together(children, run, 2, wish="die")
    assert other.error == ""
    assert other.events == []
    assert first.error == "LostRankError"
    assert first.words.startswith("Another of the run's 2 processes is gone. The checkpoint of step")
    assert run.checkpoints[-1].name == f"step-{first.of_kind(Step)[-1].step:06d}"
    assert run.checkpoints[-1].name >= "step-000003"


def test_a_process_that_does_not_answer_ends_the_run_and_the_step_is_named(children: ForkServerContext, make: Make) -> None:
    run = make("silent", {**PAIR, "training.sample_rows": 0, "training.eval_steps": STEPS})
    first, _other = together(children, run, 2, wish="silent")
    assert first.error == "LostRankError"
    said = "Another of the run's 2 processes is gone or does not answer, while agreeing on the next piece of a step:"
    assert first.words.startswith(said)
    assert run.checkpoints


def test_who_did_not_come_to_meet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_WAIT_S", 0.6)
    with pytest.raises(StudioError, match=r"Processes 1, 2 of the run did not come within 0\.01 minutes"):
        meet_alone(monkeypatch, size=3)


def test_a_process_that_ends_before_it_meets_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.exit('no such module')"], stderr=subprocess.DEVNULL) as process:
        monkeypatch.setenv(STARTED, str(process.pid))
        with pytest.raises(StudioError, match="Process 1 of the run ended before it met the others"):
            meet_alone(monkeypatch, size=2)


def meet_alone(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Be the first of several ranks, of which no other comes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    rendezvous.meet(World(size=size, launched=True), Control())


def test_what_stops_another_process_is_told_by_the_first(children: ForkServerContext, make: Make) -> None:
    first, other = together(children, make("unlike", PAIR), 2, wish="unlike")
    assert (first.error, other.error) == ("InputError", "InputError")
    assert first.words.startswith("Process 1: Process 1 has another release than process 0: 0.0, not")
