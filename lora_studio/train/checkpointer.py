"""The checkpoints of a run: when one is due, how it is written and gone back to, and what is safe meanwhile."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

from lora_studio.core.control import Control
from lora_studio.core.events import CheckpointSaved, Notice, Phase, RunEvent
from lora_studio.core.files import bytes_below, sha256_of, whole_folder
from lora_studio.core.runs import RunFolder
from lora_studio.inference.adapters import ADAPTER_WEIGHTS, newest_whole
from lora_studio.train.checkpoint import (
    CheckpointState,
    checkpoint_path,
    load_checkpoint,
    load_weights,
    prune,
    read_state,
    save_checkpoint,
    write_adapter,
)
from lora_studio.train.disk import until_written
from lora_studio.train.records import config_changes, refuse_changes
from lora_studio.train.stepper import Stepper


class Checkpointer:
    """Writes a run's checkpoints and its adapter, waiting for a disk that does not take them.

    Attributes:
        step: Step of the newest whole checkpoint; 0 before the first.
    """

    def __init__(self, run: RunFolder, stepper: Stepper, control: Control) -> None:
        """Take the run's folder, what is to be saved, and the requests that may end a wait for the disk."""
        self._run = run
        self._settings = run.config.training
        self._stepper = stepper
        self._control = control
        self._saved_at = time.monotonic()
        self.step = 0

    @property
    def is_overdue(self) -> bool:
        """Whether the last checkpoint is older than `save_minutes`."""
        minutes = self._settings.save_minutes
        return 0 < minutes * 60 <= time.monotonic() - self._saved_at

    @property
    def safe(self) -> str:
        """What is on disk, as a sentence."""
        return f"The checkpoint of step {self.step} is safe." if self.step else "No checkpoint was saved yet."

    def restore(self) -> Generator[RunEvent, None, CheckpointState | None]:
        """Go back to the newest whole checkpoint and return its state; broken ones are told of and passed over.

        Raises:
            InputError: The run's settings are not those that the checkpoint was trained with.
        """
        folder, broken = newest_whole(self._run)
        for path, fault in broken:
            yield Notice(
                level="warning",
                code="broken_checkpoint",
                message=f"The checkpoint {path.name} is broken: {fault}.",
                hint="The run goes on from the one before.",
            )
        if folder is None:
            return None
        refuse_changes(self._run, config_changes(read_state(folder).config, self._run.config))
        state = load_checkpoint(folder, self._stepper)
        self.step = state.progress.step
        prune(self._run, state.progress, self._settings.save_total_limit)  # a kill may have come before it
        return state

    def write(self, state: CheckpointState) -> Generator[RunEvent, None, None]:
        """Write a checkpoint of the step that `state` is of."""
        step = state.progress.step
        yield Phase(name="saving", message=f"Saving a checkpoint of step {step}", step=step)
        began = time.perf_counter()
        folder = yield from until_written(
            lambda: save_checkpoint(self._run, self._stepper, state, self._settings.save_total_limit),
            f"a checkpoint of step {step}",
            self._run.path,
            self._control,
            step,
            self.safe,
        )
        yield CheckpointSaved(
            step=step, path=folder.relative_to(self._run.path).as_posix(), bytes=bytes_below(folder), seconds=time.perf_counter() - began
        )

    def written(self, step: int) -> None:
        """Note that the checkpoint of a step is on disk, by whichever process."""
        self.step, self._saved_at = step, time.monotonic()

    def holds(self, step: int) -> bool:
        """Return whether the checkpoint of a step is there."""
        return checkpoint_path(self._run, step).is_dir()

    def load_weights(self, step: int) -> None:
        """Take the adapter's weights from the checkpoint of a step."""
        load_weights(checkpoint_path(self._run, step), self._stepper)

    def write_final_adapter(self, step: int) -> Generator[RunEvent, None, str]:
        """Write the run's adapter; return the sha256 of its weights."""
        path: Path = self._run.adapter_path
        return (yield from until_written(lambda: self._adapter(path), "the adapter", path, self._control, step, self.safe))

    def _adapter(self, path: Path) -> str:
        with whole_folder(path, overwrite=True) as folder:
            write_adapter(self._stepper.model, folder, self._run)
            return sha256_of(folder / ADAPTER_WEIGHTS)
