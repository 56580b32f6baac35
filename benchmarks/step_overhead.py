"""What the studio's loop costs beside its arithmetic: `python -m benchmarks.step_overhead [STEPS] [REPEATS]`.

The studio's engine, with its recorder and its memory sampler, and a bare torch loop take the same steps over the same rows with models
of their own, turn by turn, so that whatever else the machine does falls on both. The bare loop holds ready batches, runs the model
forwards and backwards with the same loss, clips and calls the same fused AdamW; it looks at nothing, tells nothing and saves nothing.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.models import starter_in_a_home_of_its_own
from benchmarks.preparing import write_rows
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.events import Step
from lora_studio.core.runs import RunFolder

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def config_of(model: Path, rows: Path, steps: int) -> RunConfig:
    return RunConfig().replace(
        {
            "model.name_or_path": str(model),
            "data.train": (str(rows),),
            "data.max_length": 256,
            "data.eval_fraction": 0.0,
            "adapter.r": 8,
            "adapter.target_modules": TARGETS,
            "training.per_device_train_batch_size": 2,
            "training.max_steps": steps,
            "training.num_train_epochs": 10_000,
            "training.save_steps": 1_000_000,
            "training.sample_rows": 0,
        }
    )


def studio(run_dir: Path) -> Iterator[None]:
    """Take the engine's steps, each when asked for; everything that is told is kept in the run's folder."""
    from lora_studio.jobs.recorder import Recorder
    from lora_studio.jobs.telemetry import MemorySampler
    from lora_studio.train.engine import train

    recorder = Recorder(str(run_dir), lambda _event: None)
    recorder.open()
    with MemorySampler(recorder.record):
        for event in train(TaskContext(), str(run_dir)):
            recorder.record(event)
            if isinstance(event, Step):
                yield


def bare(config: RunConfig) -> Iterator[None]:
    """Take the same steps by a loop of a dozen lines."""
    import torch

    from lora_studio.adapters.inject import inject
    from lora_studio.data.batching.plan import StepPlan
    from lora_studio.data.prepare import prepare_data
    from lora_studio.kernels.batches import make_batch
    from lora_studio.kernels.fused_model import fused_layers
    from lora_studio.kernels.head import SelectedHead
    from lora_studio.models.load import load_model, load_tokenizer, pick_device, pick_dtype
    from lora_studio.train.micro_batcher import MicroBatcher
    from lora_studio.train.precision import Precision

    device = pick_device()
    folder = Path(config.model.name_or_path)
    data = prepare_data(config.data, load_tokenizer(folder), config.training.seed)
    model = inject(load_model(folder, pick_dtype(device), device), config.adapter, config.training.seed)
    model.train()
    plan = StepPlan(data.blocks.lengths, data.blocks.trained_counts, config.training, data.blocks.fingerprint())
    precision, head = Precision(device, pick_dtype(device)), SelectedHead(model)
    pieces = MicroBatcher(data.blocks, config, device, padding_free=head.padding_free)
    steps = [
        (step, [make_batch(piece, padding_free=pieces.padding_free) for piece in pieces.of(step)])
        for step in map(plan.step, range(plan.total_steps))
    ]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, fused=True)
    with precision.fused_inputs(model), fused_layers(model, parts=device.type == "cpu"):
        for step, batches in steps:
            for batch in batches:
                with head, precision.autocast():
                    loss = head.loss_sum(batch.to(device)) / step.trained_tokens
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.training.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            yield


def timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def measure(model: Path, rows: Path, steps: int, folder: Path) -> float:
    """Return the median of studio ÷ bare over steps taken in turn, the first of each left out."""
    config = config_of(model, rows, steps)
    folder.mkdir()
    write_config(folder / "run.yaml", config)
    arms = (studio(RunFolder.open(folder).path), bare(config))
    ratios: list[float] = []
    for number in range(steps):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {arm: timed(lambda arm=arm: next(arms[arm])) for arm in order}
        if number:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def main(steps: int, repeats: int) -> None:
    import_engine()
    with starter_in_a_home_of_its_own() as (model, folder):
        rows = folder / "rows.jsonl"
        write_rows(rows, 60_000)
        ratios = [measure(model, rows, steps, folder / str(number)) for number in range(repeats)]
    print(f"{platform.platform()}, {os.cpu_count()} cores, {repeats} repeats of {steps} steps")
    middle = statistics.median(ratios)
    print(f"studio ÷ bare loop: median {middle:.3f}, least {min(ratios):.3f}, most {max(ratios):.3f} (goal: at most 1.01)")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [30, 5][len(given) :]))
