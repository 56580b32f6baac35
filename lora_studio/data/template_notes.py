"""What a chat template made of a data set, beside its texts: what it left out, and where it opens answers otherwise than prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_studio.core.findings import Finding
from lora_studio.data.rows import Row, RowError
from lora_studio.data.template import Rendered
from lora_studio.data.traces import CONTEXT

_MOST_OPENINGS = 20
_MOST_NAMED = 1000


@dataclass
class TemplateNotes:
    """Counts while a data set is made.

    Attributes:
        lost: Rows by the kind of what they say and their text does not.
        lost_rows: The first of those, as file:line.
        openings: Rows by how they and the prompt open an answer.
        first: The first row of each of those, and the variables that would help.
        end_cure: The variables with which the template would write an end token that it does not write.
    """

    lost: Counter[str] = field(default_factory=Counter[str])
    lost_rows: list[str] = field(default_factory=list[str])
    openings: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    first: dict[tuple[str, str], tuple[str, dict[str, Any] | None]] = field(default_factory=dict[tuple[str, str], Any])
    end_cure: dict[str, Any] | None = None

    def add(self, rows: Sequence[Row], rendered: Sequence[Rendered | RowError]) -> None:
        """Count a block."""
        for row, found in zip(rows, rendered):
            if isinstance(found, RowError):
                continue
            self.lost.update(found.lost)
            if set(found.lost) - CONTEXT and len(self.lost_rows) < _MOST_NAMED:
                self.lost_rows.append(f"{row.file}:{row.line}")
            self.end_cure = self.end_cure or (dict(found.end_cure) if found.end_cure else None)
            if found.opening and (found.opening in self.openings or len(self.openings) < _MOST_OPENINGS):
                self.openings[found.opening] += 1
                self.first.setdefault(found.opening, (f"{row.file}:{row.line}", dict(found.cure) if found.cure else None))

    def to_json(self) -> dict[str, Any]:
        """Give them as plain JSON values, for a manifest."""
        openings = [{"row": row, "prompt": prompt, "rows": count, "first": self.first[row, prompt][0], "cure": self.first[row, prompt][1]}
                    for (row, prompt), count in self.openings.most_common()]
        return {"lost": dict(self.lost), "lost_rows": self.lost_rows, "openings": openings}


def template_findings(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Say what a person should know of it, from a manifest."""
    notes = manifest.get("template_notes") or {}
    for kind, count in sorted((notes.get("lost") or {}).items()):
        yield _of_loss(kind, int(count), notes.get("lost_rows") or [])
    for opening in (notes.get("openings") or [])[:3]:
        yield _of_opening(opening)
    if unended := int(manifest["unended_rows"]):
        yield Finding(
            "warning", "rows_unended", f"{unended:,} {_rows(unended)} an answer without its end token: the chat template writes none "
            "there, and a model learns from them not to stop.", _end_cure(manifest), "data.chat_template")


def _of_loss(kind: str, count: int, places: Sequence[str]) -> Finding:
    if kind in CONTEXT:
        return Finding(
            "note", "context_left_out", f"In {count:,} rows {kind} are left out, which are context, as at inference.", "",
            "data.train_on")
    first = f" (the first is {places[0]})" if places else ""
    thinks = " A model that is trained on answers whose thoughts were cut out learns not to think." if kind == "thoughts" else ""
    return Finding(
        "warning", "rows_left_out",
        f"{count:,} {_rows(count)} {kind} that the chat template does not write{first}; they are trained without.{thinks}",
        "Set data.on_unwritten to content to keep thoughts and calls in the answer's text, or to refuse to leave such rows out.",
        "data.on_unwritten")


def _of_opening(opening: Mapping[str, Any]) -> Finding:
    cure = f"Set data.chat_template_kwargs to {opening['cure']}, with which both are alike; or set " if opening["cure"] else "Set "
    count = int(opening["rows"])
    return Finding(
        "warning", "opening_differs",
        f"{count:,} {'row opens its answer' if count == 1 else 'rows open their answers'} with {opening['row']!r}, and the prompt at "
        f"inference ends with {opening['prompt']!r} (the first is {opening['first']}).",
        f"{cure}data.answer_opening to say whether the model learns to write the row's opening.", "data.answer_opening")


def _end_cure(manifest: Mapping[str, Any]) -> str:
    cure = manifest.get("end_cure")
    return f"Set data.chat_template_kwargs to {cure}, with which it writes it." if cure else "Choose a chat template that ends its answers."


def _rows(count: int) -> str:
    return "row has" if count == 1 else "rows have"
