"""One attempt of a run: steps, evaluations, samples and checkpoints, with a look at what the person asks in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled
from lora_studio.core.events import (
    Notice,
    Paused,
    Phase,
    RunEvent,
    RunFinished,
)
from lora_studio.core.runs import RunFolder
from lora_studio.data.batching.plan import StepBatch, StepPlan
from lora_studio.data.prepare import PreparedData
from lora_studio.data.token_rows import TokenRow
from lora_studio.inference.adapters import ADAPTER_DIGEST
from lora_studio.inference.loaded_model import free_memory
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.packed import refuse_unpackable
from lora_studio.train.checkpoint import (
    CheckpointState,
)
from lora_studio.train.checkpointer import Checkpointer
from lora_studio.train.faults import TooLargeError, out_of_memory, refuse_standstill, told_fault
from lora_studio.train.held_out import HeldOut
from lora_studio.train.interrupt import abandoning
from lora_studio.train.loss_guard import LossGuard
from lora_studio.train.metrics_buffer import MetricsBuffer, PendingStep, StepClock, peak_memory
from lora_studio.train.micro_batcher import MicroBatcher
from lora_studio.train.precision import Precision
from lora_studio.train.progress import Progress
from lora_studio.train.ranks import Ranks
from lora_studio.train.records import computed_otherwise
from lora_studio.train.schedule import lr_at
from lora_studio.train.stepper import StepOutcome, Stepper, micro_batch_seed
from lora_studio.train.utilization import Utilization


class _StopAskedError(Exception):
    """The person asked to stop: unwind to where the work is saved."""


class TrainingLoop:
    """Trains the adapter on `model` with the data given, from step 0 or from the newest whole checkpoint."""

    def __init__(
        self,
        context: TaskContext,
        run: RunFolder,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        data: PreparedData,
        precision: Precision,
        utilization: Utilization,
        suggestions: Callable[[int], list[str]] = lambda _length: [],
        reads_late: bool | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Take what a run needs.

        `suggestions` names what would help once a row of so many tokens does not fit; `reads_late` reads a step's figures once the next is
        under way, by default on a graphics card; `ranks` are the processes that train it together, by default this one alone.
        """
        self._ranks = ranks or Ranks()
        self._own = context.control  # what reached this process: only for work that no other rank has a part in
        self._control = self._ranks.control(context.control)
        self._folder = run
        self._config: RunConfig = run.config
        self._model = model
        self._tokenizer = tokenizer
        self._data = data
        self._precision = precision
        self._utilization = utilization
        self._suggestions = suggestions
        self._stepper = Stepper(model, self._config.training, precision, self._ranks)
        if self._config.data.packing:
            refuse_unpackable(model)
            self._stepper.conduct.refuse_packing()
        self._rows = data.blocks
        self.plan = StepPlan(self._rows.lengths, self._rows.trained_counts, self._config.training, self._rows.fingerprint())
        on_cpu = precision.device.type == "cpu"
        self._metrics = MetricsBuffer(self._config.training.logging_steps, not on_cpu if reads_late is None else reads_late)
        self._guard = self._guard_after(())
        self._progress = Progress()
        self._checkpointer = Checkpointer(run, self._stepper, self._own)
        padding_free = self._stepper.padding_free and not self._config.training.torch_compile
        self._micro_batcher = MicroBatcher(
            self._rows, self._config, precision.device, padding_free=padding_free, pads=self._stepper.conduct.pads
        )
        self._held_out = HeldOut(model, tokenizer, data, self._config.training, precision, self._ranks)
        self._eval_loss: float | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._progress.step

    def restore(self) -> Iterator[RunEvent]:
        """Go back to the newest whole checkpoint; broken ones are told of and passed over."""
        state = yield from self._checkpointer.restore()
        if state is None:
            return
        self._progress = state.progress
        self._guard = self._guard_after(state.progress.recent_losses)
        self._micro_batcher.max_rows = state.micro_rows or self._micro_batcher.max_rows
        yield from computed_otherwise(state, self._precision, self._ranks.size)

    def stand_with_first(self) -> None:
        """Let every rank stand where the first one stands: its weights and moments, and how far it is."""
        scaler = self._stepper.loss_scale
        here = {
            "progress": asdict(self._progress),
            "saved_step": self._checkpointer.step,
            "max_rows": self._micro_batcher.max_rows,
            "scaler": scaler.state_dict() if scaler else {},
        }
        told: dict[str, Any] = self._ranks.broadcast_object(here)
        self._ranks.broadcast_parameters(self._stepper.parameters, self._stepper.optimizer)
        if not self._ranks.is_main_process:
            self._progress, self._checkpointer.step = Progress.from_json(told["progress"]), told["saved_step"]
            self._guard, self._micro_batcher.max_rows = self._guard_after(self._progress.recent_losses), told["max_rows"]
            if scaler:
                scaler.load_state_dict(told["scaler"])

    def run(self) -> Iterator[RunEvent]:
        """Train to the end and save the adapter; the last event is `run_finished`.

        Raises:
            Cancelled: The person asked to stop; the last completed step is saved, unless the step was abandoned.
            StudioError: The device ran out of memory, or the loss stayed not a number.
        """
        with abandoning(self._model, self._control), self._precision.fused_inputs(self._model):
            self._model.train()
            try:
                yield from self._whole_run()
            except _StopAskedError:
                yield from self._flush_metrics()
                if self.step > self._checkpointer.step:
                    yield from self._save()
                raise Cancelled from None
            except (RuntimeError, MemoryError, ValueError, TypeError, AttributeError, LookupError) as error:
                lost = self._ranks.lost(error)
                if lost is not None:
                    yield from self._save_alone()
                    lost.hint = f"{self._checkpointer.safe} {lost.hint}"
                told = lost or told_fault(error, self._checkpointer.safe)
                if told is None:
                    raise
                raise told from error
            finally:
                self._metrics.drop()
                self._stepper.zero_grad()

    def _whole_run(self) -> Iterator[RunEvent]:
        settings = self._config.training
        notice = self._stepper.conduct.notice()
        if notice is not None:
            yield notice
        if self.step == 0:
            yield from self._evaluate()
            yield from self._sample("before")
        elif self._due(settings.eval_steps) and self._progress.evaluated_step < self.step < self.plan.total_steps:
            yield from self._evaluate()  # the attempt before ended between checkpoint and evaluation
        yield self._training_phase()
        while self.step < self.plan.total_steps and not self._progress.stops_early(settings):
            yield from self._take_step()
            if self.step < self.plan.total_steps:
                yield from self._between_steps()
        yield from self._flush_metrics()
        refuse_standstill(self._progress)
        if self.step > self._checkpointer.step:
            yield from self._save()
        if self._progress.evaluated_step != self.step:
            yield from self._evaluate()
        yield from self._choose_best()
        yield from self._sample("after")
        yield from self._finish()

    def _due(self, every: int) -> bool:
        """Return whether the step just taken ends an interval: so many steps, or an epoch for 0."""
        return self.step % (every or self.plan.steps_per_epoch) == 0

    def _between_steps(self) -> Iterator[RunEvent]:
        settings = self._config.training
        if self._control.take_checkpoint_request() or self._due(settings.save_steps) or self._ranks.overdue(self._checkpointer.is_overdue):
            yield from self._save()
        evaluate = self._due(settings.eval_steps)
        if evaluate:
            yield from self._evaluate()
        asked = self._control.take_sample_request()
        sample = asked or (settings.sample_steps and self.step % settings.sample_steps == 0)
        if sample:
            yield from self._sample("step")
        if evaluate or sample:
            yield self._training_phase()

    def _take_step(self) -> Iterator[RunEvent]:
        number = self.step
        batch = self.plan.step(number)
        if self._precision.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        clock: StepClock | None = None
        while clock is None:
            clock = yield from self._accumulate_gradients(number, batch)
        learning_rate = lr_at(number, self.plan.total_steps, self._config.training)
        with clock.piece():
            self._stepper.step(learning_rate)
        self._progress = self._progress.advanced(batch)
        done = self._progress
        documents = [length for row in batch.rows for length in self._rows.documents(row).tolist()]
        self._metrics.note(
            PendingStep(
                done.step,
                learning_rate,
                batch,
                done.tokens,
                done.trained_tokens,
                clock,
                peak_memory(self._precision.device),
                partial(self._utilization.share, documents, batch.trained_tokens),
            )
        )
        if self._metrics.due:
            self._metrics.post(self._stepper.post())
            yield from self._emit_steps()

    def _flush_metrics(self) -> Iterator[RunEvent]:
        """Tell of every step taken, waiting for figures that are under way."""
        self._metrics.post(self._stepper.post())
        yield from self._emit_steps(everything=True)

    def _emit_steps(self, everything: bool = False) -> Iterator[RunEvent]:
        """Tell of the steps whose figures have come."""
        for taken, outcome in self._metrics.read(everything):
            skipped = self._progress.skipped_in_a_row + 1 if outcome.skipped else 0
            self._progress = replace(self._progress, skipped_in_a_row=skipped)
            if self._metrics.is_told(taken.step) or taken.step == self.plan.total_steps or outcome.skipped:
                yield taken.to_event(outcome)
            if outcome.skipped:
                yield from self._after_skip(taken.step, outcome)
            else:
                yield from self._look_for_spike(taken.step, outcome.loss)

    def _look_for_spike(self, step: int, loss: float) -> Iterator[RunEvent]:
        spike = self._guard.spike(step, loss)
        self._progress = replace(self._progress, recent_losses=self._guard.losses)
        if spike is not None:
            yield spike

    def _guard_after(self, losses: tuple[float, ...]) -> LossGuard:
        return LossGuard(scaled=self._stepper.loss_scale is not None, losses=losses)

    def _accumulate_gradients(self, number: int, batch: StepBatch) -> Generator[RunEvent, None, StepClock | None]:
        """Add up a step's gradient; return its clock, None where a micro-batch was too large and is to be halved."""
        clock = StepClock(self._precision.device)
        too_large = None
        ranks = self._ranks
        for place, rows in enumerate(self._micro_batcher.of(batch, ranks.rank, ranks.size)):
            yield from self._handle_requests(too_large)
            if ranks.too_large is not None:
                break
            seed = micro_batch_seed(self._config.training.seed, number, place * ranks.size + ranks.rank)
            try:
                with clock.piece():
                    self._forward_backward(rows, batch, seed)
            except TooLargeError as error:
                too_large = error
        too_large = ranks.agree(too_large, self._checkpointer.is_overdue)
        if too_large is None:
            return clock
        yield from self._halve(too_large)
        return None

    def _forward_backward(self, rows: list[TokenRow], batch: StepBatch, seed: int) -> None:
        """Take a micro-batch. A rank that has none left takes a row that adds nothing, where others need its part of the model."""
        if rows:
            self._stepper.accumulate(make_batch(rows, padding_free=self._micro_batcher.padding_free), batch.trained_tokens, seed)
        elif self._ranks.sharded:
            self._stepper.accumulate(make_batch([self._rows[batch.rows[-1]]]), math.inf, seed)

    def _halve(self, error: TooLargeError) -> Iterator[RunEvent]:
        """Go on with half the rows at a time: more micro-batches make the same step."""
        if error.rows == 1:
            raise out_of_memory(error, self._suggestions(error.width))
        self._stepper.zero_grad()  # what other ranks had added
        self._micro_batcher.halve(error.rows)
        free_memory()
        yield Notice(
            level="warning",
            code="micro_batch_halved",
            step=self.step,
            message=f"Out of memory on {error.rows} rows of up to {error.width} tokens: "
            f"the run goes on with {self._micro_batcher.max_rows} at a time.",
            hint="A step learns from the same rows as before, in more pieces.",
        )

    def _after_skip(self, step: int, outcome: StepOutcome) -> Iterator[RunEvent]:
        """Tell of a step whose numbers were not finite; give up when it goes on."""
        count = self._progress.skipped_in_a_row
        if self._guard.gives_up(count):
            if count < self.step:
                yield from self._save()  # what came before these steps
            raise self._guard.fault(step, outcome, count, self._checkpointer.safe)
        yield self._guard.skipped(step, outcome)

    def _handle_requests(self, too_large: TooLargeError | None = None) -> Iterator[RunEvent]:
        """Do what the person asked for, between two pieces of work; all ranks come here, and learn of a piece that was too large."""
        self._ranks.agree(too_large, self._checkpointer.is_overdue)
        if self._control.abandoning:
            raise Cancelled
        if self._control.stopping:
            raise _StopAskedError
        if self._control.paused:
            yield from self._flush_metrics()
            if self.step > self._checkpointer.step:
                yield from self._save()
            yield Paused(step=self.step)
            self._control.wait_while_paused()
            yield self._training_phase("Going on")
            yield from self._handle_requests(too_large)

    def _save(self) -> Iterator[RunEvent]:
        yield from self._flush_metrics()
        yield from self._ranks.on_main_process(lambda: self._checkpointer.write(self._state()))
        self._checkpointer.written(self.step)

    def _save_alone(self) -> Iterator[RunEvent]:
        """Save what the first rank has, once another is gone: each holds the whole adapter, and a step counts only once it is taken."""
        if self._ranks.is_main_process and self.step > self._checkpointer.step:
            self._ranks = Ranks()
            yield from self._save()

    def _state(self) -> CheckpointState:
        """Return what a checkpoint of this step says of the run."""
        scaler = self._stepper.loss_scale
        return CheckpointState(
            self._progress,
            self.plan.total_steps,
            self._config.training.seed,
            torch.get_num_threads(),
            str(self._precision.compute).removeprefix("torch."),
            {} if scaler is None else scaler.state_dict(),
            self._micro_batcher.max_rows,
            self._config.model_dump(mode="json"),
            self._ranks.size,
        )

    def _evaluate(self) -> Iterator[RunEvent]:
        """Take the loss over the held-out rows; pauses and stops are heeded between batches."""
        if not len(self._data.evaluation):
            return
        yield from self._flush_metrics()
        self._eval_loss = yield from self._held_out.evaluate(self.step, self._handle_requests)
        yield from self._heed_evaluation(self._eval_loss)

    def _heed_evaluation(self, loss: float) -> Iterator[RunEvent]:
        """Keep the best step's checkpoint, and say when the run is to end early."""
        settings = self._config.training
        self._progress = self._progress.evaluated(loss, settings.early_stopping_threshold)
        wanted = settings.load_best_model_at_end or settings.early_stopping_patience
        if wanted and self.step == self._progress.best_step > self._checkpointer.step:
            yield from self._save()
        if self._progress.stops_early(settings) and self.step < self.plan.total_steps:
            yield Notice(
                code="early_stop",
                step=self.step,
                message=f"The evaluation loss has not improved for {self._progress.stale_evaluations} evaluations: the run ends here.",
                hint=f"The best was {self._progress.best_loss:.4f} at step {self._progress.best_step}; its checkpoint is kept.",
            )

    def _choose_best(self) -> Iterator[RunEvent]:
        """Take the adapter of the best evaluation, where the settings ask for it and it is not the last step's."""
        best = self._progress.best_step
        if not self._config.training.load_best_model_at_end or best in (0, self.step):
            return
        if not self._ranks.broadcast_object(self._checkpointer.holds(best)):
            yield Notice(
                level="warning",
                code="best_missing",
                step=self.step,
                message=f"The checkpoint of the best evaluation, of step {best}, is not there any more.",
                hint="The run finishes with the last step's adapter.",
            )
            return
        if self._ranks.is_main_process:
            self._checkpointer.load_weights(best)
        self._ranks.broadcast_parameters(self._stepper.parameters, self._stepper.optimizer)
        self._eval_loss = self._progress.best_loss
        yield Notice(
            code="best_taken",
            step=self.step,
            message=f"The adapter is that of step {best}, whose evaluation loss {self._eval_loss:.4f} was the lowest.",
        )

    def _sample(self, label: Literal["before", "after", "step"]) -> Iterator[RunEvent]:
        """Answer held-out prompts, once what is under way is told."""
        yield from self._flush_metrics()
        yield from self._held_out.sample(label, self.step, self._handle_requests, self._own, self._control)

    def _finish(self) -> Iterator[RunEvent]:
        digest = yield from self._ranks.on_main_process(lambda: self._checkpointer.write_final_adapter(self.step))
        done = self._progress
        result = {
            "adapter": str(self._folder.adapter_path),
            ADAPTER_DIGEST: digest,
            "steps": self.step,
            "eval_loss": self._eval_loss,
            "best_step": done.best_step or None,
            "best_loss": done.best_loss,
        }
        yield RunFinished(step=self.step, result=result)

    def _training_phase(self, message: str = "Training") -> Phase:
        return Phase(name="training", message=message, done=self.step, total=self.plan.total_steps, unit="steps", step=self.step)
