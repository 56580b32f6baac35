"""What a run does with its held-out rows: their loss, and answers to their prompts. Neither touches what training draws from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Literal

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from lora_studio.core.control import Control
from lora_studio.core.errors import StudioError
from lora_studio.core.events import Evaluation, Phase, RunEvent, Sample
from lora_studio.core.training_settings import TrainingSettings
from lora_studio.data.prepare import PreparedData
from lora_studio.inference.sampling import answer
from lora_studio.inference.score import loss_sums
from lora_studio.train.precision import Precision
from lora_studio.train.ranks import Ranks

_SAMPLES_AT_ONCE = 16
Heed = Callable[[], Iterator[RunEvent]]


class HeldOut:
    """The held-out rows of one run, before the model that trains.

    Args:
        model: The base model with its adapter.
        tokenizer: The model's.
        data: The run's.
        training: The run's settings.
        precision: What is computed in.
        ranks: The processes that train together.
    """

    def __init__(
        self,
        model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        data: PreparedData,
        training: TrainingSettings,
        precision: Precision,
        ranks: Ranks,
    ) -> None:
        self._model, self._tokenizer, self._data = model, tokenizer, data
        self._training, self._precision, self._ranks = training, precision, ranks

    def evaluate(self, step: int, heed: Heed) -> Generator[RunEvent, None, float]:
        """Take the loss over the held-out rows and give it; pauses and stops are heeded between batches.

        Args:
            step: Steps taken.
            heed: Looks at what a person asks.

        Raises:
            StudioError: The base model itself has no finite loss.
        """
        yield self._phase(0, step)
        began = time.perf_counter()
        loss_sum, tokens, done = 0.0, 0, 0
        ranks = self._ranks
        for figures in loss_sums(self._model, self._data.evaluation, self._precision.autocast, ranks.rank, ranks.size):
            batch_sum, batch_tokens, batch_rows = ranks.all_reduce(*figures)
            loss_sum, tokens, done = loss_sum + batch_sum, tokens + int(batch_tokens), done + int(batch_rows)
            yield self._phase(done, step)
            yield from heed()
        loss = loss_sum / max(1, tokens)
        if step == 0 and not math.isfinite(loss):
            raise StudioError(
                "The loss of the base model itself is not a finite number on the held-out rows.",
                "Its weights are damaged, or its numbers are too large for float16: download it again, or set model.dtype to float32.",
                "model.name_or_path",
            )
        yield Evaluation(step=step, loss=loss, rows=done, trained_tokens=tokens, seconds=time.perf_counter() - began)
        return loss

    def sample(
        self, label: Literal["before", "after", "step"], step: int, heed: Heed, own: Control, all_ranks: Control
    ) -> Iterator[RunEvent]:
        """Answer held-out prompts; nothing is kept of a batch that a stop cuts short.

        Args:
            label: When it is.
            step: Steps taken.
            heed: Looks at what a person asks.
            own: What reached this process.
            all_ranks: What reached any of them.
        """
        prompts = self._data.samples(self._training.sample_rows)
        for start in range(0, len(prompts), _SAMPLES_AT_ONCE):
            group = prompts[start : start + _SAMPLES_AT_ONCE]
            yield Phase(name="sampling", message="Answering held-out prompts", done=start, total=len(prompts), unit="prompts", step=step)
            texts = self._answers([prompt.prompt_ids for prompt in group], all_ranks if self._ranks.sharded else own)
            yield from heed()
            for prompt, text in zip(group, texts):
                yield Sample(step=step, label=label, row=prompt.row, prompt=prompt.prompt_text, reference=prompt.reference, text=text)

    def _answers(self, prompts: Sequence[Sequence[int]], control: Control) -> list[str]:
        """Answer prompts on the first rank; on all alike where each holds a part of the model."""
        texts: list[str] = []
        if self._ranks.is_main_process or self._ranks.sharded:
            with self._precision.autocast():
                texts = answer(self._model, self._tokenizer, prompts, self._training.sample_max_new_tokens, lambda: control.stopping)
        return self._ranks.broadcast_object(texts)

    def _phase(self, done: int, step: int) -> Phase:
        total = len(self._data.evaluation)
        return Phase(name="evaluating", message="Evaluating on the held-out rows", done=done, total=total, unit="rows", step=step)
