"""`lora-studio runs`: the runs on this machine."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from lora_studio.cli.console import Console
from lora_studio.cli.units import in_time, table
from lora_studio.core.paths import studio_paths
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunSummary


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(console: Console, arguments: Namespace) -> int:
    """Print the runs, the latest first."""
    root = studio_paths().runs
    runs = RunStore(root).list()
    if arguments.json:
        console.json({"folder": str(root), "runs": [_document(run) for run in runs]})
    elif not runs:
        console.say(f"No runs in {root} yet.")
    else:
        heads = ("started", "state", "steps", "loss", "best eval", "time", "r", "alpha", "base model", "folder")
        for line in table([heads, *(_row(run) for run in runs)], right=(2, 3, 4, 5, 6, 7)):
            console.say(line)
        console.note(f"in {root}")
    return 0


def _document(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path)}


def _row(run: RunSummary) -> tuple[str, ...]:
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else "—"
    steps = f"{run.steps}/{run.total_steps}" if run.total_steps else str(run.steps)
    return (
        started,
        run.state,
        steps,
        _loss(run.last_loss),
        _loss(run.best_eval),
        in_time(run.duration),
        str(run.r),
        f"{run.lora_alpha:g}",
        run.base_model,
        run.path.name,
    )


def _loss(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"
