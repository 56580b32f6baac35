"""One attempt of a run: steps, evaluations, samples and checkpoints, with a look at what the person asks in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Literal

import psutil
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, StudioError
from lora_studio.core.events import (
    CheckpointSaved,
    Evaluation,
    Notice,
    Paused,
    Phase,
    RunEvent,
    RunFinished,
    Sample,
    Step,
)
from lora_studio.core.files import bytes_below, sha256_of, whole_folder
from lora_studio.core.runs import RunFolder
from lora_studio.data.plan import StepBatch, StepPlan
from lora_studio.data.prepare import PreparedData
from lora_studio.generate.adapters import ADAPTER_DIGEST, ADAPTER_WEIGHTS, newest_whole
from lora_studio.generate.batches import make_batch
from lora_studio.generate.host import free_memory
from lora_studio.generate.packed import refuse_unpackable
from lora_studio.generate.sampling import answer
from lora_studio.generate.score import loss_sums
from lora_studio.train.abandon import abandoning
from lora_studio.train.checkpoint import CheckpointState, Progress, load_checkpoint, save_checkpoint, write_adapter
from lora_studio.train.precision import Precision
from lora_studio.train.schedule import lr_at
from lora_studio.train.stepper import Outcome, Stepper, TooLargeError, is_out_of_memory, micro_batch_seed, out_of_memory

_MOST_SKIPPED = 5
_MOST_SKIPPED_SCALED = 30  # a loss scale finds its height by halving: 2^16 down takes as many tries
_SAMPLES_AT_ONCE = 16
_PASS_TOKENS = 64  # measured: 16 tokens of a small model take 0.09 s, 64 take 0.14 s, 256 take 0.36 s


class _StopAskedError(Exception):
    """The person asked to stop: unwind to where the work is saved."""


class Session:
    """Trains the adapter on `model` with the data given, from step 0 or from the newest whole checkpoint."""

    def __init__(
        self, context: TaskContext, run: RunFolder, model: PeftModel, tokenizer: PreTrainedTokenizerBase, data: PreparedData,
        precision: Precision, ways_out: Callable[[int], list[str]] = lambda _length: [],
    ) -> None:
        self._control = context.control
        self._run = run
        self._config: RunConfig = run.config
        self._model = model
        self._tokenizer = tokenizer
        self._data = data
        self._precision = precision
        self._ways_out = ways_out
        self._stepper = Stepper(model, self._config.training, precision)
        if self._config.data.packing:
            refuse_unpackable(model)
        self._rows = data.blocks
        self.plan = StepPlan(self._rows.lengths, self._rows.trained_counts, self._config.training, self._rows.fingerprint())
        self._progress = Progress()
        self._saved_step = 0
        self._micro_rows = self._config.training.per_device_train_batch_size
        # A processor is as quick with few rows as with many, a graphics card is not.
        self._pass_tokens = _PASS_TOKENS if precision.device.type == "cpu" else None
        self._eval_loss: float | None = None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return self._progress.step

    def restore(self) -> Iterator[RunEvent]:
        """Go back to the newest whole checkpoint; broken ones are told of and passed over."""
        folder, broken = newest_whole(self._run)
        for path, fault in broken:
            yield Notice(level="warning", code="broken_checkpoint", message=f"The checkpoint {path.name} is broken: {fault}.",
                         hint="The run goes on from the one before.")
        if folder is None:
            return
        state = load_checkpoint(folder, self._stepper)
        self._progress = state.progress
        self._saved_step = state.progress.step
        self._micro_rows = state.micro_rows or self._micro_rows
        compute = str(self._precision.compute).removeprefix("torch.")
        if state.compute_dtype != compute:
            yield Notice(level="warning", code="precision_changed", step=self.step,
                         message=f"The run computed in {state.compute_dtype} before and does in {compute} here.",
                         hint="Set compute_dtype in a new run where the two must agree.")
        if state.threads != torch.get_num_threads():
            yield Notice(code="threads_changed", step=self.step,
                         message=f"The run computed with {state.threads} threads before and does with {torch.get_num_threads()} now: "
                                 "sums will round a little differently.")

    def take(self) -> Iterator[RunEvent]:
        """Train to the end and save the adapter; the last event is `run_finished`.

        Raises:
            Cancelled: The person asked to stop; the last completed step is saved, unless the step was abandoned.
            StudioError: The device ran out of memory, or the loss stayed not a number.
        """
        with abandoning(self._model, self._control), self._precision.lean_inputs(self._model):
            self._model.train()
            try:
                yield from self._whole_run()
            except _StopAskedError:
                if self.step > self._saved_step:
                    yield from self._save()
                raise Cancelled from None
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = "Out of memory while evaluating or sampling."
                raise StudioError(message, "Lower max_length or sample_rows.", "data.max_length") from error
            finally:
                self._stepper.drop()

    def _whole_run(self) -> Iterator[RunEvent]:
        settings = self._config.training
        if self.step == 0:
            yield from self._evaluate()
            yield from self._sample("before")
        yield self._training_phase()
        while self.step < self.plan.total_steps:
            yield from self._take_step()
            if self.step < self.plan.total_steps:
                yield from self._between_steps(self._due(settings.eval_steps), self._due(settings.save_steps))
        self._refuse_standstill()
        if self.step > self._saved_step:
            yield from self._save()
        yield from self._evaluate()
        yield from self._sample("after")
        yield self._finish()

    def _refuse_standstill(self) -> None:
        """Raise `StudioError` where no step moved the adapter."""
        if self.step and self._progress.skipped_in_a_row >= self.step:
            raise StudioError(
                f"None of the {self.step} steps moved the adapter: no loss and gradient was a finite number.",
                "Usual causes: a learning_rate too high, too few steps for float16's loss scale, or a damaged base model.",
                "training.learning_rate",
            )

    def _due(self, every: int) -> bool:
        """Say whether the step just taken ends an interval: so many steps, or an epoch for 0."""
        return self.step % (every or self.plan.steps_per_epoch) == 0

    def _between_steps(self, evaluate: bool, save: bool) -> Iterator[RunEvent]:
        if self._control.take_checkpoint_request() or save:
            yield from self._save()
        if evaluate:
            yield from self._evaluate()
        asked = self._control.take_sample_request()
        if asked:
            yield from self._sample("step")
        if evaluate or asked:
            yield self._training_phase()

    def _take_step(self) -> Iterator[RunEvent]:
        settings = self._config.training
        number = self.step
        batch = self.plan.step(number)
        if self._precision.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] | None = None
        while seconds is None:
            seconds = yield from self._add_up(number, batch)
        began = time.perf_counter()
        learning_rate = lr_at(number, self.plan.total_steps, settings)
        outcome = self._stepper.finish(learning_rate)
        whole = sum(seconds) + time.perf_counter() - began
        self._advance(batch, outcome)
        if self.step % settings.logging_steps == 0 or self.step == self.plan.total_steps or outcome.skipped:
            yield Step(
                step=self.step, loss=outcome.loss, learning_rate=learning_rate, grad_norm=outcome.grad_norm, tokens=self._progress.tokens,
                trained_tokens=self._progress.trained_tokens, tokens_per_second=batch.tokens / whole, epoch=batch.epoch, seconds=whole,
                micro_batch_seconds=max(seconds), peak_memory=self._peak_memory(), skipped=outcome.skipped,
            )
        if outcome.skipped:
            yield from self._after_skip(outcome)

    def _add_up(self, number: int, batch: StepBatch) -> Generator[RunEvent, None, list[float] | None]:
        """Add up a step's gradient; return the seconds of each micro-batch, None where one was too large and is to be halved."""
        seconds: list[float] = []
        too_large = None
        for place, rows in enumerate(self.plan.micro_batches(batch, self._micro_rows, pass_tokens=self._pass_tokens)):
            yield from self._heed()
            began = time.perf_counter()
            seed = micro_batch_seed(self._config.training.seed, number, place)
            try:
                self._stepper.add(make_batch([self._rows[row] for row in rows]), batch.trained_tokens, seed)
            except TooLargeError as error:
                too_large = error
                break
            seconds.append(time.perf_counter() - began)
        if too_large is None:
            return seconds
        yield from self._halve(too_large)
        return None

    def _halve(self, error: TooLargeError) -> Iterator[RunEvent]:
        """Go on with half the rows at a time: more micro-batches make the same step."""
        if error.rows == 1:
            raise out_of_memory(error, self._ways_out(error.width))
        self._micro_rows = error.rows // 2
        free_memory()
        yield Notice(
            level="warning", code="micro_batch_halved", step=self.step,
            message=f"Out of memory on {error.rows} rows of up to {error.width} tokens: the run goes on with {self._micro_rows} at a time.",
            hint="A step learns from the same rows as before, in more pieces.")

    def _advance(self, batch: StepBatch, outcome: Outcome) -> None:
        done = self._progress
        self._progress = Progress(
            done.step + 1, done.tokens + batch.tokens, done.trained_tokens + batch.trained_tokens,
            done.skipped_in_a_row + 1 if outcome.skipped else 0,
        )

    def _after_skip(self, outcome: Outcome) -> Iterator[RunEvent]:
        """Tell of a step whose numbers were not finite; give up when it goes on."""
        count = self._progress.skipped_in_a_row
        scaled = self._stepper.scaler.is_enabled()
        what = "loss" if outcome.loss != outcome.loss or abs(outcome.loss) == float("inf") else "gradient"
        if count >= (_MOST_SKIPPED_SCALED if scaled else _MOST_SKIPPED):
            raise StudioError(
                f"The {what} was not a finite number in {count} steps in a row, the last of them step {self.step}.",
                "Usual causes: a learning_rate too high, float16 where bfloat16 or float32 is needed (compute_dtype), "
                "or a damaged base model.",
                "training.learning_rate",
            )
        scale = f" The loss scale is {self._stepper.scaler.get_scale():g} now." if scaled else ""
        yield Notice(level="info" if scaled else "warning", code="step_skipped", step=self.step,
                     message=f"Step {self.step} was skipped: its {what} was not a finite number.{scale}",
                     hint="The adapter did not move. Should it happen again, lower learning_rate.")

    def _heed(self) -> Iterator[RunEvent]:
        """Do what the person asked for, between two pieces of work."""
        if self._control.abandoning:
            raise Cancelled
        if self._control.stopping:
            raise _StopAskedError
        if self._control.paused:
            if self.step > self._saved_step:
                yield from self._save()
            yield Paused(step=self.step)
            self._control.wait_while_paused()
            yield self._training_phase("Going on")
            yield from self._heed()

    def _save(self) -> Iterator[RunEvent]:
        yield Phase(name="saving", message=f"Saving a checkpoint of step {self.step}", step=self.step)
        began = time.perf_counter()
        training = self._config.training
        state = CheckpointState(
            self._progress, self.plan.total_steps, training.seed, torch.get_num_threads(),
            str(self._precision.compute).removeprefix("torch."), self._stepper.scaler.state_dict(),
            self._micro_rows,
        )
        folder = save_checkpoint(self._run, self._stepper, state, training.save_total_limit)
        self._saved_step = self.step
        yield CheckpointSaved(step=self.step, path=folder.relative_to(self._run.path).as_posix(), bytes=bytes_below(folder),
                              seconds=time.perf_counter() - began)

    def _evaluate(self) -> Iterator[RunEvent]:
        """Take the loss over the held-out rows; pauses and stops are heeded between batches."""
        rows = self._data.evaluation
        if not len(rows):
            return
        yield self._evaluating_phase(0)
        began = time.perf_counter()
        loss_sum, tokens, done = 0.0, 0, 0
        for batch_sum, batch_tokens, batch_rows in loss_sums(self._model, rows, self._precision.autocast):
            loss_sum, tokens, done = loss_sum + batch_sum, tokens + batch_tokens, done + batch_rows
            yield self._evaluating_phase(done)
            yield from self._heed()
        self._eval_loss = loss_sum / max(1, tokens)
        if self.step == 0 and not math.isfinite(self._eval_loss):
            raise StudioError(
                "The loss of the base model itself is not a finite number on the held-out rows.",
                "Its weights are damaged, or its numbers are too large for float16: download it again, or set model.dtype to float32.",
                "model.name_or_path",
            )
        yield Evaluation(step=self.step, loss=self._eval_loss, rows=done, trained_tokens=tokens, seconds=time.perf_counter() - began)

    def _evaluating_phase(self, done: int) -> Phase:
        total = len(self._data.evaluation)
        return Phase(name="evaluating", message="Evaluating on the held-out rows", done=done, total=total, unit="rows", step=self.step)

    def _sample(self, label: Literal["before", "after", "step"]) -> Iterator[RunEvent]:
        """Answer held-out prompts; nothing is kept of a batch that a stop cuts short."""
        training = self._config.training
        prompts = self._data.samples(training.sample_rows)
        for start in range(0, len(prompts), _SAMPLES_AT_ONCE):
            group = prompts[start : start + _SAMPLES_AT_ONCE]
            yield Phase(
                name="sampling", message="Answering held-out prompts", done=start, total=len(prompts), unit="prompts", step=self.step)
            with self._precision.autocast():
                texts = answer(self._model, self._tokenizer, [prompt.prompt_ids for prompt in group], training.sample_max_new_tokens,
                               lambda: self._control.stopping)
            yield from self._heed()
            for prompt, text in zip(group, texts):
                yield Sample(step=self.step, label=label, row=prompt.row, prompt=prompt.prompt_text,
                             reference=prompt.reference, text=text)

    def _finish(self) -> RunEvent:
        with whole_folder(self._run.adapter_path, overwrite=True) as folder:
            write_adapter(self._model, folder, self._run)
            digest = sha256_of(folder / ADAPTER_WEIGHTS)
        result = {"adapter": str(self._run.adapter_path), ADAPTER_DIGEST: digest, "steps": self.step, "eval_loss": self._eval_loss}
        return RunFinished(step=self.step, result=result)

    def _training_phase(self, message: str = "Training") -> Phase:
        return Phase(name="training", message=message, done=self.step, total=self.plan.total_steps, unit="steps", step=self.step)

    def _peak_memory(self) -> int:
        if self._precision.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return int(psutil.Process().memory_info().rss)
