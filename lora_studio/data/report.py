"""What a data set is to a model: `data --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lora_studio.core.findings import Finding
from lora_studio.core.settings import DataSettings
from lora_studio.data.batching.packing import count_blocks
from lora_studio.data.check import MOST_BAD_ROWS
from lora_studio.data.rows.row import BadRow
from lora_studio.data.templates.template_notes import template_findings
from lora_studio.data.token_rows import Numbers
from lora_studio.data.tokens.token_store import TokenStore

_MOST_UNTRAINED = 1000


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of all rows.

    Attributes:
        total: Tokens of all rows, as cut to `max_length`.
        trained: Those of them that are learned.
        p50: Median row, in tokens before cutting: what `max_length` would have to be.
        p95: Length that 95% of the rows do not pass, before cutting.
        max: Longest row, before cutting.
    """

    total: int
    trained: int
    p50: int
    p95: int
    max: int


@dataclass(frozen=True)
class DataReport:
    """`data --json`.

    Attributes:
        rows: Sound rows, held-out ones and `untrained_rows` among them; bad rows are not.
        format: messages, sharegpt, prompt_completion, alpaca, text and so on, or mixed.
        tokens: Token counts over these rows.
        bad_rows: Rows that cannot be used.
        truncated_rows: Rows cut to `max_length`.
        untrained_rows: Rows left out because nothing in them is trained, such as one cut before its answer.
        untrained: The first of those, as file:line.
        unended_rows: Rows with an answer whose last trained token, before cutting, is no special one: a model learns not to stop.
        findings: What there is to know of what the chat template made of the rows.
        bad_count: All rows that cannot be used, where `bad_rows` does not name them all.
        train_rows: Rows to learn from.
        eval_rows: Rows held out.
        histogram: Uncut lengths: bin `edges`, and `counts` one fewer.
        packing: `blocks` of `max_length` that the training rows are packed into, and the `efficiency`: the share of them that is filled.
        cached: Whether the tokens had been made before.
        template: Where the chat template came from: `origin` model, studio, settings or none, and a shipped one's `name`.
        lengths: Folder that `lengths.LengthTable.open` reads, to see what another `max_length` would do.
    """

    rows: int
    format: str
    tokens: TokenCounts
    bad_rows: tuple[BadRow, ...]
    truncated_rows: int
    untrained_rows: int
    untrained: tuple[str, ...] = ()
    unended_rows: int = 0
    train_rows: int = 0
    eval_rows: int = 0
    histogram: Mapping[str, list[int]] = field(default_factory=dict[str, list[int]])
    packing: Mapping[str, float] = field(default_factory=dict[str, float])
    cached: bool = False
    template: Mapping[str, str] = field(default_factory=dict[str, str])
    lengths: str = ""
    findings: tuple[Finding, ...] = ()
    bad_count: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, keys as above."""
        tree = asdict(self)
        return {
            **tree,
            "bad_rows": list(tree["bad_rows"]),
            "untrained": list(tree["untrained"]),
            "findings": [asdict(finding) for finding in self.findings],
        }


def make_report(
    store: TokenStore,
    settings: DataSettings,
    train: Numbers,
    held_out: Numbers,
    bad_rows: tuple[BadRow, ...],
    *,
    cached: bool,
) -> DataReport:
    """Count what the settings make of a stored data set.

    Args:
        store: All sound rows.
        settings: How they are cut.
        train: Numbers of the rows to learn from.
        held_out: Numbers of the rows held out.
        bad_rows: Rows that are not in the store.
        cached: Whether the store was there before.
    """
    table = store.lengths
    cut = table.at(settings.max_length)
    return DataReport(
        rows=cut.rows,
        format=store.manifest["format"],
        tokens=count_tokens(table.lengths, cut.tokens, cut.trained),
        bad_rows=bad_rows,
        truncated_rows=cut.cut_rows,
        untrained_rows=cut.untrained_rows,
        untrained=_places(store, np.flatnonzero(~table.trains(settings.max_length))[:_MOST_UNTRAINED]),
        unended_rows=store.manifest["unended_rows"],
        train_rows=train.size,
        eval_rows=held_out.size,
        histogram=table.histogram(),
        packing=_packing(np.minimum(table.lengths[train], settings.max_length), settings.max_length),
        cached=cached,
        template=store.manifest["template"],
        lengths=str(store.folder),
        findings=tuple(template_findings(store.manifest)),
        bad_count=_count_bad(store, bad_rows),
    )


def _count_bad(store: TokenStore, bad_rows: tuple[BadRow, ...]) -> int:
    """Count them all: of those that do not read, only the first are named."""
    unread = sum(int(file["bad_rows"]) for file in store.manifest["files"])
    return len(bad_rows) + max(0, unread - MOST_BAD_ROWS)


def _places(store: TokenStore, rows: Numbers) -> tuple[str, ...]:
    names = [str(file["path"]) for file in store.manifest["files"]]
    return tuple(f"{names[file]}:{line}" for file, line, _turns in store.places[:, rows].T.tolist())


def _packing(lengths: Numbers, max_length: int) -> dict[str, float]:
    blocks = count_blocks(np.bincount(lengths, minlength=max_length + 1), max_length)
    return {"blocks": blocks, "efficiency": float(lengths.sum()) / (blocks * max_length) if blocks else 0.0}


def count_tokens(lengths: NDArray[np.int64], total: int, trained: int) -> TokenCounts:
    """Sum up rows by their uncut lengths, shape (rows,); percentiles are lengths of real rows."""
    if not lengths.size:
        return TokenCounts(0, 0, 0, 0, 0)
    p50, p95 = np.percentile(lengths, [50, 95], method="inverted_cdf")
    return TokenCounts(total, trained, int(p50), int(p95), int(lengths.max()))
