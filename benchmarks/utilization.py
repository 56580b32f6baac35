"""How much of the device training uses: `python -m benchmarks.utilization [STEPS] [REPEATS]` (goal 4).

The starter model with r 8 on all linear layers, without dropout, every token trained, over the chat rows of the other benchmarks, packed
or not, cut at 256 and at 1,024 tokens. A figure is the median over the repeats of the median over a run's steps, by the run's own events:
4N + 3A + 6·N_adapter operations a token without padding, against the best square matrix product that the run measured in its dtype.
Ways to cut the rows take turns.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from pathlib import Path

from benchmarks.models import starter_in_a_home_of_its_own
from benchmarks.preparing import write_rows
from benchmarks.step_overhead import TARGETS
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.events import RunStarted, Step
from lora_studio.core.runs import RunFolder

TOKENS_A_STEP = 2048
WAYS = tuple((length, packing) for length in (256, 1024) for packing in (True, False))


def shares(model: Path, rows: Path, folder: Path, steps: int, length: int, packing: bool) -> tuple[float, float, float]:
    """Train; give the share of the peak and tokens a second, medians over the steps but the first, and the peak in operations a second."""
    from lora_studio.train.engine import train

    config = RunConfig().replace(
        {
            "model.name_or_path": str(model),
            "data.train": (str(rows),),
            "data.max_length": length,
            "data.packing": packing,
            "data.train_on": "all",
            "data.eval_fraction": 0.0,
            "adapter.r": 8,
            "adapter.lora_dropout": 0.0,
            "adapter.target_modules": TARGETS,
            "training.per_device_train_batch_size": TOKENS_A_STEP // length if packing else TOKENS_A_STEP // 237,
            "training.gradient_accumulation_steps": 1,
            "training.max_steps": steps + 1,
            "training.sample_rows": 0,
        }
    )
    folder.mkdir()
    write_config(folder / "run.yaml", config)
    peak, taken = 0.0, []
    for event in train(TaskContext(), str(RunFolder.open(folder).path)):
        if isinstance(event, RunStarted):
            peak = event.peak_flops or 0.0
        elif isinstance(event, Step) and event.utilization is not None:
            taken.append((event.utilization, event.tokens_per_second or 0.0))
    share, speed = (statistics.median(figures) for figures in zip(*taken[1:]))
    return share, speed, peak


def main(steps: int, repeats: int) -> None:
    import_engine()
    with starter_in_a_home_of_its_own() as (model, folder):
        rows = folder / "rows.jsonl"
        write_rows(rows, (steps + 1) * TOKENS_A_STEP)
        found: dict[tuple[int, bool], list[tuple[float, float, float]]] = {way: [] for way in WAYS}
        for turn in range(repeats):
            for length, packing in WAYS:
                found[length, packing].append(shares(model, rows, folder / f"{turn}-{length}-{packing}", steps, length, packing))
    print(f"{platform.platform()}, {os.cpu_count()} cores, {repeats} repeats of {steps} steps")
    print(f"{'rows':24} {'share':>6} {'min':>6} {'max':>6} {'tokens/s':>9} {'peak GFLOP/s':>13}")
    for (length, packing), figures in found.items():
        share, speed, peak = zip(*figures)
        print(
            f"{f'up to {length}, ' + ('packed' if packing else 'as they are'):24} {statistics.median(share):6.3f} {min(share):6.3f} "
            f"{max(share):6.3f} {statistics.median(speed):9.0f} {statistics.median(peak) / 1e9:13.0f}"
        )


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*(given + [4, 5][len(given) :]))
