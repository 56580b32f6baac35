"""Files to rows a run learns from: tokenized once, then cut, split, packed and counted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.batching.ordering import shuffled
from lora_studio.data.batching.packing import PackedRows
from lora_studio.data.check import refuse_bad_rows, way_out_of
from lora_studio.data.report import DataReport, make_report
from lora_studio.data.rows.row import BadRow
from lora_studio.data.templates.template import ChatTemplate
from lora_studio.data.token_rows import Numbers, Rows, TokenRows
from lora_studio.data.tokens.encode import Encoder
from lora_studio.data.tokens.samples import Place, SamplePrompt, sample_prompts
from lora_studio.data.tokens.token_cache import key_of
from lora_studio.data.tokens.token_store import TokenStore
from lora_studio.data.tokens.tokenize import ProgressCallback, stored_tokens

_MOST_SAMPLES = 1000  # `training.sample_rows` goes no further
_OF_THIS_MACHINE = ("cached", "lengths")


@dataclass(frozen=True)
class PreparedData:
    """A data set as one model reads it.

    Attributes:
        train: Rows to learn from; at least one.
        evaluation: Held-out rows; may be none. Never packed.
        report: Counts over both, and what was left out.
        files: Path, sha256, bytes, split, format, rows and bad rows of each file.
        made_with: SHA-256 of the `tokenizer` and of the `chat_template`.
    """

    train: TokenRows
    evaluation: TokenRows
    report: DataReport
    files: tuple[dict[str, Any], ...]
    made_with: dict[str, str]
    _settings: DataSettings = field(repr=False)
    _store: TokenStore = field(repr=False)
    _held_out: Numbers = field(repr=False)
    _tokenizer: Any = field(repr=False)

    @cached_property
    def blocks(self) -> Rows:
        """What a batch is counted in: packed blocks of the training rows, or those rows themselves."""
        return PackedRows(self.train, self._settings.max_length) if self._settings.packing else self.train

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all tokens, masks, row borders and blocks: what a resumed run goes by."""
        return hashlib.sha256((self.blocks.fingerprint() + self.evaluation.fingerprint()).encode()).hexdigest()

    def samples(self, count: int) -> list[SamplePrompt]:
        """Return the first `count` held-out prompts, fewer where there are fewer (at most 1,000)."""
        count = min(count, len(self.evaluation), _MOST_SAMPLES)
        if not count:
            return []
        kept_at = self._store.folder / f"samples-{self.evaluation.fingerprint()[:16]}-{count}.json"
        with ChatTemplate.of(self._tokenizer, self._settings) as template:
            return sample_prompts(
                self._settings,
                [self._place(row) for row in self._held_out[:count]],
                [self.evaluation[row] for row in range(count)],
                template,
                Encoder(self._tokenizer),
                kept_at,
            )

    def to_json(self) -> dict[str, Any]:
        """Return what a run folder keeps as `data.json`."""
        report = {name: value for name, value in self.report.to_json().items() if name not in _OF_THIS_MACHINE}
        tokens = report["tokens"]
        return {
            **report,
            "files": list(self.files),
            "made_with": self.made_with,
            "share_trained": tokens["trained"] / tokens["total"] if tokens["total"] else 0.0,
            "data_fingerprint": self.fingerprint,
        }

    def _place(self, row: int) -> Place:
        file, line, turns = self._store.places[:, row].tolist()
        return self.files[file]["path"], line, turns


def prepare_data(settings: DataSettings, tokenizer: Any, seed: int, progress: ProgressCallback | None = None) -> PreparedData:
    """Make token rows of a data set with a model's tokenizer and chat template, or take them from the cache.

    Args:
        settings: The files, and how to read them.
        tokenizer: A fast transformers tokenizer.
        seed: Decides which rows are held out.
        progress: Called with bytes read and bytes in all, as `stored_tokens` does; not at all where the cache has them.

    Raises:
        InputError: A file or row is bad (`on_bad_rows: stop`), the tokenizer cannot render or mask the rows, or no
            row is left to train on.
    """
    with ChatTemplate.of(tokenizer, settings) as template:
        store, cached = stored_tokens(settings, tokenizer, template, Encoder(tokenizer), progress)
        made_with = {"tokenizer": Encoder.identity(tokenizer), "chat_template": key_of(template.identity)}
    bad_rows = tuple(BadRow(*entry) for entry in store.manifest["bad_rows"])
    if settings.on_bad_rows == "stop":
        refuse_bad_rows(bad_rows)
    train, held_out = split_rows(store, settings, seed)
    if not train.size:
        raise _nothing_to_train(store, bad_rows, settings.max_length)
    return PreparedData(
        train=store.select(train, settings.max_length),
        evaluation=store.select(held_out, settings.max_length),
        report=make_report(store, settings, train, held_out, bad_rows, cached=cached),
        files=tuple(store.manifest["files"]),
        made_with=made_with,
        _settings=settings,
        _store=store,
        _held_out=held_out,
        _tokenizer=tokenizer,
    )


def split_rows(store: TokenStore, settings: DataSettings, seed: int) -> tuple[Numbers, Numbers]:
    """Part the rows that train something into those to learn from and those held out, both in the order of the files.

    Raises:
        InputError: As many rows are to be held out as there are.
    """
    of_eval = np.array([file["split"] == "eval" for file in store.manifest["files"]], dtype=np.bool_)[store.places[0]]
    rows = np.flatnonzero(~of_eval)
    held_out = of_eval.copy()
    if not of_eval.any():
        held_out[rows[_held_out_of(store, rows, settings, seed)]] = True
    trains = store.lengths.trains(settings.max_length)
    return np.flatnonzero(~held_out & trains), np.flatnonzero(held_out & trains)


def _held_out_of(store: TokenStore, rows: Numbers, settings: DataSettings, seed: int) -> Numbers:
    """Choose among the rows of the files: what training makes of one (`train_on: each`) is held out whole, or not at all.

    Conversations that begin alike share rows: of one that is held out, what others are trained on is no test.
    """
    conversation = _conversations(store.places[:, rows])
    last = np.zeros(int(conversation[-1]) + 1 if rows.size else 0, np.int64)
    last[conversation] = np.arange(rows.size)  # of several the last: the whole conversation
    contents = store.contents[rows]
    chosen = choose_held_out(contents[last], settings.eval_fraction, seed, settings.eval_rows)
    held_out = np.isin(conversation, chosen)
    return np.flatnonzero(held_out & ~np.isin(contents, contents[~held_out]))


def _conversations(places: Numbers) -> Numbers:
    """Return a number for each row that it shares with the other rows made of the same row of a file, counted in their order."""
    turns = places[2]
    same = (places[:2, 1:] == places[:2, :-1]).all(axis=0) & (turns[:-1] > 0) & ((turns[1:] > turns[:-1]) | (turns[1:] == 0))
    return np.concatenate([np.zeros(min(1, turns.size), np.int64), np.cumsum(~same)])


def choose_held_out(contents: Numbers, fraction: float, seed: int, count: int = 0) -> Numbers:
    """Choose the rows to hold out: `count` of them, or a share, at least one where a share is asked for and two rows are there.

    No row is held out while one of the same content is trained on. So rows that stand once are taken first; of those that repeat
    all or none, as long as they fit, which may leave fewer than were asked for.

    Args:
        contents: A number for each row that rows of the same content share, shape (rows,).
        fraction: The share.
        seed: Decides which.
        count: How many; 0 to go by the share.

    Raises:
        InputError: `count` leaves no row to train on.
    """
    rows = contents.size
    if count and count >= rows:
        noun = "row" if rows == 1 else "rows"
        raise InputError(
            f"eval_rows is {count}, and the training files have {rows} {noun}.", "Hold out fewer rows than there are.", "data.eval_rows"
        )
    if not count and (fraction <= 0 or rows <= 1):
        return np.empty(0, dtype=np.int64)
    wanted = count or min(max(1, round(rows * fraction)), rows - 1)
    order = shuffled(rows, seed, "held out")
    _, group, sizes = np.unique(contents, return_inverse=True, return_counts=True)
    chosen = order[sizes[group[order]] == 1][:wanted]
    return chosen if chosen.size == wanted else np.concatenate([chosen, _whole_groups(order, group, sizes, wanted - chosen.size)])


def _whole_groups(order: Numbers, group: Numbers, sizes: Numbers, wanted: int) -> Numbers:
    """Choose up to `wanted` rows of repeated content in groups that are taken whole, in the order their first rows come."""
    repeated = order[sizes[group[order]] > 1]
    firsts = group[repeated[np.sort(np.unique(group[repeated], return_index=True)[1])]].tolist()
    taken: list[int] = []
    for number in firsts:
        if sizes[number] <= wanted:
            wanted -= int(sizes[number])
            taken.append(number)
    return repeated[np.isin(group[repeated], taken)]


def _nothing_to_train(store: TokenStore, bad_rows: tuple[BadRow, ...], max_length: int) -> InputError:
    untrained = store.lengths.at(max_length).untrained_rows
    if untrained:
        return InputError(
            f"No row is left to train on: {untrained} have nothing to learn within {max_length} tokens.",
            "Raise max_length, or look at train_on.",
            "data.max_length",
        )
    first = f"; the first: {bad_rows[0]}" if bad_rows else ""
    message = f"No row is left to train on: {len(bad_rows)} of the training data's rows are bad{first}."
    return InputError(message, *way_out_of(bad_rows))
