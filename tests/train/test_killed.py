"""Runs killed with signal 9 at random moments end as if nothing had happened; `LORA_STUDIO_KILLS` says how many moments."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from lora_studio.core.runs import RunFolder
from lora_studio.inference.adapters import newest_whole
from tests.train.helpers import new_run, run_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no signal 9")
MOMENTS = int(os.environ.get("LORA_STUDIO_KILLS", "50"))
STEPS = 14


def attempt(run_dir: str) -> None:
    """Train a run from where it is to its end."""
    import torch

    from lora_studio.core.control import TaskContext
    from lora_studio.train.engine import train

    torch.set_num_threads(1)
    for _ in train(TaskContext(), run_dir, resume=True):
        pass


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Children that have torch, transformers and peft already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lora_studio.train.engine", "transformers.models.llama.modeling_llama", __name__])
    return context


@pytest.fixture(scope="module")
def dozen(tiny_model: Callable[[str], Path], chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunFolder]:
    """Runs of a dozen steps with all that is hard to go on from: dropout, accumulation, packing, an epoch that ends within."""
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {
            "training.max_steps": STEPS,
            "training.save_steps": 1,
            "training.per_device_train_batch_size": 2,
            "training.gradient_accumulation_steps": 2,
            "adapter.lora_dropout": 0.2,
            "training.sample_rows": 0,
            "training.save_total_limit": 2,
            "data.packing": True,
            "data.max_length": 96,
            "data.eval_fraction": 0.0,
        },
    )
    return lambda name: new_run(tmp_path_factory.mktemp(name) / "run", config)


def started(children: ForkServerContext, run: RunFolder) -> multiprocessing.process.BaseProcess:
    child = children.Process(target=attempt, args=(str(run.path),))
    child.start()
    return child


def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_one_that_was_not(
    children: ForkServerContext,
    dozen: Callable[[str], RunFolder],
    say: Callable[[str], None],
) -> None:
    started(children, dozen("warm")).join(120)
    whole = dozen("whole")
    began = time.monotonic()
    child = started(children, whole)
    child.join(120)
    seconds = time.monotonic() - began
    assert child.exitcode == 0

    numbers = random.Random()
    run, kills, runs_through, found = dozen("killed"), 0, 1, []
    while kills < MOMENTS:
        child = started(children, run)
        child.join(numbers.uniform(0.0, seconds))
        child.kill()
        child.join(30)
        if child.exitcode == 0:  # it was there before
            runs_through += 1
            check_same(run, whole)
            run = dozen(f"killed{runs_through}")
            continue
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        newest, broken = newest_whole(run)
        assert not broken
        found.append(newest.name if newest else "none")
    child = started(children, run)
    child.join(120)
    assert child.exitcode == 0
    check_same(run, whole)
    say(f"{kills} kills, {runs_through} runs to the end; newest checkpoints at the kills: {', '.join(found)}")


def check_same(run: RunFolder, whole: RunFolder) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run.adapter_path / name).read_bytes() == (whole.adapter_path / name).read_bytes()
    assert len(run.checkpoints) <= 2
    left = [path.name for path in run.path.rglob(".*")]
    assert left == []
