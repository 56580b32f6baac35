"""Files to token rows: templated, masked, cut, split and counted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lora_studio.core.config import DataSettings
from lora_studio.core.errors import InputError
from lora_studio.core.files import sha256_of
from lora_studio.data.check import DataCheck, Split, check_files, file_readers, refuse_bad_rows
from lora_studio.data.encode import Encoder, cut
from lora_studio.data.ordering import shuffled
from lora_studio.data.report import DataReport, count_tokens
from lora_studio.data.rows import BadRow, Row, RowError
from lora_studio.data.template import ChatTemplate, Rendered
from lora_studio.data.token_rows import TokenRow, TokenRows, TokenRowsBuilder
from lora_studio.data.trainable import refuse_untrainable

Progress = Callable[[int, int], None]
_ROWS_AT_ONCE = 512
_MOST_SAMPLES = 1000  # held-out rows whose text is kept for samples; `training.sample_rows` goes no further
_LONGEST_TEXT_PROMPT = 64


@dataclass(frozen=True)
class SamplePrompt:
    """A held-out prompt to answer before and after a run.

    Attributes:
        row: Its row among the held-out rows.
        prompt_ids: What the model is given.
        prompt_text: What a person is shown: the last question.
        reference: The answer in the data.
    """

    row: int
    prompt_ids: tuple[int, ...]
    prompt_text: str
    reference: str


@dataclass(frozen=True)
class PreparedData:
    """A data set as one model reads it.

    Attributes:
        train: Rows to learn from; at least one.
        evaluation: Held-out rows; may be none.
        report: Counts over both, and what was left out.
        files: Path, sha256, bytes, split, format, rows and bad rows of each file.
    """

    train: TokenRows
    evaluation: TokenRows
    report: DataReport
    files: tuple[dict[str, Any], ...]
    _held_out: tuple[tuple[int, Row], ...] = field(repr=False)
    _template: ChatTemplate = field(repr=False)
    _encoder: Encoder = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all tokens, masks and row borders: what a step plan and a resumed run go by."""
        return hashlib.sha256((self.train.fingerprint() + self.evaluation.fingerprint()).encode()).hexdigest()

    def samples(self, count: int) -> list[SamplePrompt]:
        """Give the first `count` held-out prompts, fewer where there are fewer (at most 1,000)."""
        return [self._sample(place, row) for place, row in self._held_out[:count]]

    def to_json(self) -> dict[str, Any]:
        """Give what a run folder keeps as `data.json`."""
        report = self.report.to_json()
        tokens = report["tokens"]
        return {
            **report,
            "files": list(self.files),
            "train_rows": len(self.train),
            "eval_rows": len(self.evaluation),
            "share_trained": tokens["trained"] / tokens["total"] if tokens["total"] else 0.0,
            "data_fingerprint": self.fingerprint,
        }

    def _sample(self, place: int, row: Row) -> SamplePrompt:
        if row.messages:
            ids = self._encoder.prompt_ids(self._template.prompt(row))
            return SamplePrompt(place, tuple(ids), row.messages[-2].content, row.messages[-1].content)
        ids = self.evaluation[place].input_ids.tolist()
        half = max(1, min(len(ids) // 2, _LONGEST_TEXT_PROMPT))
        return SamplePrompt(place, tuple(ids[:half]), self._encoder.decode(ids[:half]), self._encoder.decode(ids[half:]))


@dataclass
class _Tally:
    """Rows as they come out of the tokenizer."""

    max_length: int
    train: TokenRowsBuilder = field(default_factory=TokenRowsBuilder)
    evaluation: TokenRowsBuilder = field(default_factory=TokenRowsBuilder)
    held_out: list[tuple[int, Row]] = field(default_factory=list[tuple[int, Row]])
    bad_rows: list[BadRow] = field(default_factory=list[BadRow])
    lengths: list[int] = field(default_factory=list[int])
    tokens: int = 0
    trained: int = 0
    truncated: int = 0
    untrained: int = 0
    eval_rows: int = 0

    def add(self, row: Row, split: Split, whole: TokenRow) -> None:
        kept = cut(whole, self.max_length)
        self.lengths.append(whole.input_ids.size)
        self.truncated += kept is not whole
        self.tokens += kept.input_ids.size
        trained = int(kept.trained.sum())
        self.trained += trained
        if not trained:
            self.untrained += 1
        elif split == "train":
            self.train.add(kept)
        else:
            if len(self.held_out) < _MOST_SAMPLES:
                self.held_out.append((self.eval_rows, row))
            self.evaluation.add(kept)
            self.eval_rows += 1


def prepare_data(settings: DataSettings, tokenizer: Any, seed: int, progress: Progress | None = None) -> PreparedData:
    """Make token rows of a data set with a model's tokenizer and chat template.

    Every row is read twice: once to find all bad rows before any work, once to tokenize it; so memory holds tokens, not text.

    Args:
        settings: The files, and how to read them.
        tokenizer: A fast transformers tokenizer.
        seed: Decides which rows are held out.
        progress: Called with rows done and rows in all, after every 512 rows.

    Raises:
        InputError: A file or row is bad (`on_bad_rows: stop`), the tokenizer cannot render or mask the rows, or no
            row is left to train on.
    """
    check = check_files(settings)
    refuse_untrainable(check)
    if settings.on_bad_rows == "stop":
        refuse_bad_rows(check.bad_rows, check.bad_count, check.encoding_offer)
    template, encoder = ChatTemplate(tokenizer), Encoder(tokenizer)
    held_out = choose_held_out(check.train_rows, settings.eval_fraction, seed) if not check.eval_rows else frozenset[int]()
    tally = _Tally(settings.max_length)
    done = 0
    for block in _blocks(settings, held_out):
        _encode_block(block, template, encoder, settings.train_on, tally)
        done += len(block)
        if progress:
            progress(done, check.rows)
    if settings.on_bad_rows == "stop":
        refuse_bad_rows(tuple(tally.bad_rows))
    return _prepared(check, tally, template, encoder)


def choose_held_out(rows: int, fraction: float, seed: int) -> frozenset[int]:
    """Choose the rows to hold out: at least one where a share is asked for and two rows are there, never all."""
    if fraction <= 0 or rows <= 1:
        return frozenset()
    count = min(max(1, round(rows * fraction)), rows - 1)
    return frozenset(shuffled(rows, seed, "held out")[:count].tolist())


def _blocks(settings: DataSettings, held_out: frozenset[int]) -> Iterator[list[tuple[Row, Split]]]:
    block: list[tuple[Row, Split]] = []
    for row, split in _sound_rows(settings, held_out):
        block.append((row, split))
        if len(block) == _ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


def _sound_rows(settings: DataSettings, held_out: frozenset[int]) -> Iterator[tuple[Row, Split]]:
    place = 0
    for split, reader in file_readers(settings):
        for row in reader.rows():
            if isinstance(row, BadRow):
                continue
            yield row, "eval" if split == "eval" or place in held_out else "train"
            place += split == "train"


def _encode_block(
    block: list[tuple[Row, Split]], template: ChatTemplate, encoder: Encoder, train_on: str, tally: _Tally
) -> None:
    kept: list[tuple[Row, Split]] = []
    rendered: list[Rendered] = []
    for row, split in block:
        try:
            rendered.append(template.render(row, train_on))
            kept.append((row, split))
        except RowError as error:
            tally.bad_rows.append(BadRow(row.file, row.line, str(error)))
    for (row, split), whole in zip(kept, encoder.encode(rendered)):
        tally.add(row, split, whole)


def _prepared(check: DataCheck, tally: _Tally, template: ChatTemplate, encoder: Encoder) -> PreparedData:
    train = tally.train.build()
    if not len(train):
        raise _nothing_to_train(check, tally)
    report = DataReport(
        rows=len(tally.lengths),
        format=check.format,
        tokens=count_tokens(np.array(tally.lengths, dtype=np.int64), tally.tokens, tally.trained),
        bad_rows=(*check.bad_rows, *tally.bad_rows),
        truncated_rows=tally.truncated,
        untrained_rows=tally.untrained,
    )
    files = tuple(
        {"path": file.path, "sha256": sha256_of(Path(file.where)), "bytes": file.bytes, "split": file.split,
         "format": file.format, "rows": file.rows, "bad_rows": file.bad_rows}
        for file in check.files)
    return PreparedData(train, tally.evaluation.build(), report, files, tuple(tally.held_out), template, encoder)


def _nothing_to_train(check: DataCheck, tally: _Tally) -> InputError:
    bad = (*check.bad_rows, *tally.bad_rows)
    if tally.untrained:
        return InputError(
            f"No row is left to train on: {tally.untrained} have nothing to learn within {tally.max_length} tokens.",
            "Raise max_length, or look at train_on.", "data.max_length",
        )
    first = f"; the first: {bad[0]}" if bad else ""
    return InputError(f"No row is left to train on: {len(bad)} of the training data's rows are bad{first}.", "Mend the rows.", "data.train")
