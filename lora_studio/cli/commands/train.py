"""`lora-studio train RUN.yaml`: a run, in a thread or a process, new or resumed."""

from __future__ import annotations

import shutil
import signal
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.cli.units import in_time
from lora_studio.core.config_files import AS_BEFORE, read_config, read_run_config
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import RunEvent, event_to_json
from lora_studio.core.history import RunHistory
from lora_studio.core.paths import studio_paths
from lora_studio.core.run_store import RunStore
from lora_studio.core.runs import RunFolder
from lora_studio.core.world import FIELD, World, refuse_other_world
from lora_studio.data.check import check_files, refuse_bad_rows, refuse_no_rows
from lora_studio.data.trainable import refuse_untrainable
from lora_studio.jobs.launch import follow, followers
from lora_studio.jobs.spec import JobSpec
from lora_studio.models.sources import find_model

TASK = "lora_studio.train.engine:train"
_FIRST_SPEAKS_S = 10.0


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("config", metavar="RUN.yaml", type=Path, nargs="?", help="a run config; left out with --resume")
    parser.add_argument("--output", metavar="DIR", type=Path, help="the run's folder itself; by default one is named after date and run")
    parser.add_argument("--events", metavar="-", choices=["-"], help="write every event to standard output as a line of JSON")
    parser.add_argument("--host", choices=["thread", "process"], default="thread", help="where the run lives (default: thread)")
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path, help="go on with a stopped or interrupted run from its last checkpoint")
    parser.add_argument("--num-processes", metavar="N", type=int, help="with --resume: go on in so many processes")


def run(console: Console, arguments: Namespace) -> int:
    """Train, and print where the adapter is; of several processes the first one does, the others are silent."""
    world = World.of()
    if world.rank:
        return _follow(arguments, world)
    folder = _resumed(arguments) if arguments.resume else _created(arguments, world)
    console.note(f"Run folder: {folder.path}")
    task = {"run_dir": str(folder.path), "resume": arguments.resume is not None}
    spec = JobSpec(TASK, task, title=folder.config.name, device=True, run_dir=str(folder.path))
    try:
        with followers(arguments.num_processes or folder.config.training.num_processes), open_host(arguments.host) as host:
            result = run_job(console, host, spec, _event_writer(console) if arguments.events else None, saves=True)
    except InputError:
        if not arguments.resume:
            _take_back(folder)
        raise
    except Cancelled:
        _say_how_to_go_on(console, folder)
        raise
    if not arguments.events:
        history = RunHistory.replay(folder.events_path)
        console.say(f"Finished {result.get('steps', history.step)} steps in {in_time(history.elapsed)}.{_loss_words(history)}")
        console.say(f"Adapter: {folder.adapter_path}")
    return 0


def _follow(arguments: Namespace, world: World) -> int:
    """Be another process than the first, which speaks for all. A launcher ends them all with the first that fails: let it speak before."""
    try:
        if arguments.config is not None:
            refuse_other_world(read_config(arguments.config), world, resume=arguments.resume is not None)
        status = follow()
    except InputError as error:
        status = error.exit_status
    if status:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_FIRST_SPEAKS_S)
    return status


def _created(arguments: Namespace, world: World) -> RunFolder:
    """Make the run's folder, once what can be seen quickly is in order."""
    if arguments.config is None:
        raise InputError("train needs a run config.", "Give RUN.yaml, or --resume RUN_DIR.")
    if arguments.num_processes is not None:
        raise InputError("--num-processes is for a run that goes on.", "Set training.num_processes in the config.", FIELD)
    config = read_config(arguments.config)
    started = world if world.launched else replace(world, size=config.training.num_processes)
    refuse_other_world(config, started)
    check = check_files(config.data)
    refuse_untrainable(check, config.training.method)
    if config.data.on_bad_rows == "stop":
        refuse_bad_rows(check.bad_rows, check.bad_count, check.encoding_offer)
    refuse_no_rows(check)
    find_model(config.model.name_or_path, config.model.revision)
    return RunStore(studio_paths().runs).create(config, arguments.output)


def _resumed(arguments: Namespace) -> RunFolder:
    folder = RunFolder.open(arguments.resume)
    if arguments.output is not None:
        raise InputError("--output names a new run's folder; a resumed run has one.", "Leave --output out.")
    if folder.state == "running":
        raise InputError(f"The run {folder.path} is alive.", "Wait until it ends, or stop it where it runs.")
    if folder.state == "finished":
        raise InputError(f"The run {folder.path} has finished.", "Start a new run with other settings.")
    if arguments.config is not None:
        _refuse_changes(arguments.config, folder)
    return folder


def _refuse_changes(path: Path, folder: RunFolder) -> None:
    """A run keeps the settings it began with: a curve of two halves would be nobody's.

    A config may be as old as the run, and then name no setting that came after it.
    """
    config = read_config(path)
    unnamed = read_run_config(path.read_text(encoding="utf-8"), name=str(path))[1]
    changed = [
        field for field in config.differences(folder.config) if not (field in unnamed and folder.config.get(field) == AS_BEFORE[field])
    ]
    if changed:
        raise InputError(
            f"{path} differs from the run {folder.path} in {', '.join(changed)}.",
            "Leave the config out to resume with the run's own, or start a new run.",
            changed[0],
        )


def _take_back(folder: RunFolder) -> None:
    """Remove a run that never began, because what it was given is wrong."""
    if not folder.checkpoints and not folder.adapter_path.exists():
        shutil.rmtree(folder.path, ignore_errors=True)


def _say_how_to_go_on(console: Console, folder: RunFolder) -> None:
    saved = folder.checkpoints
    console.note(f"Stopped. Saved: {saved[-1]}" if saved else "Stopped before the first checkpoint.")
    console.note(f"Go on with: lora-studio train --resume {folder.path}")


def _event_writer(console: Console) -> Callable[[RunEvent], None]:
    def write(event: RunEvent) -> None:
        console.say(event_to_json(event))

    return write


def _loss_words(history: RunHistory) -> str:
    if history.evaluation:
        return f" Evaluation loss {history.evaluation.y[0]:.4f} → {history.evaluation.y[-1]:.4f}."
    return f" Loss {history.loss.y[0]:.4f} → {history.loss.y[-1]:.4f}." if history.loss else ""
