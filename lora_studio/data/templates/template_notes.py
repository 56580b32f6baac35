"""What a chat template made of a data set, beside its texts: what it left out, and where it opens answers otherwise than prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_studio.core.findings import Finding
from lora_studio.data.rows.row import Row, RowError
from lora_studio.data.templates.dropped_fields import CONTEXT
from lora_studio.data.templates.template import Rendered

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
        ends_last: Whether it writes one behind an answer that is the last of its row.
    """

    lost: Counter[str] = field(default_factory=Counter[str])
    lost_rows: list[str] = field(default_factory=list[str])
    openings: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    first: dict[tuple[str, str], tuple[str, dict[str, Any] | None]] = field(default_factory=dict[tuple[str, str], Any])
    end_cure: dict[str, Any] | None = None
    ends_last: bool = False

    def add(self, rows: Sequence[Row], rendered: Sequence[Rendered | RowError]) -> None:
        """Count a block."""
        for row, found in zip(rows, rendered):
            if isinstance(found, RowError):
                continue
            self.lost.update(found.lost)
            if set(found.lost) - CONTEXT and len(self.lost_rows) < _MOST_NAMED:
                self.lost_rows.append(f"{row.file}:{row.line}")
            self.ends_last = self.ends_last or found.ends_last
            self.end_cure = self.end_cure or (dict(found.end_cure) if found.end_cure else None)
            if found.opening and (found.opening in self.openings or len(self.openings) < _MOST_OPENINGS):
                self.openings[found.opening] += 1
                self.first.setdefault(found.opening, (f"{row.file}:{row.line}", dict(found.cure) if found.cure else None))

    def to_json(self) -> dict[str, Any]:
        """Return them as plain JSON values, for a manifest."""
        openings = [
            {"row": row, "prompt": prompt, "rows": count, "first": self.first[row, prompt][0], "cure": self.first[row, prompt][1]}
            for (row, prompt), count in self.openings.most_common()
        ]
        return {"lost": dict(self.lost), "lost_rows": self.lost_rows, "openings": openings}


def template_findings(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Say what a person should know of it, from a manifest."""
    notes = manifest.get("template_notes") or {}
    for kind, count in sorted((notes.get("lost") or {}).items()):
        yield _of_loss(kind, int(count), notes.get("lost_rows") or [])
    for opening in (notes.get("openings") or [])[:3]:
        yield _of_opening(opening)
    if unended := int(manifest["unended_rows"]):
        yield _of_end(unended, manifest)


def _of_loss(kind: str, count: int, places: Sequence[str]) -> Finding:
    if kind in CONTEXT:
        return Finding(
            "note", "context_left_out", f"In {count:,} rows {kind} are left out, which are context, as at inference.", "", "data.train_on"
        )
    first = f" (the first is {places[0]})" if places else ""
    thinks = " A model that is trained on answers whose thoughts were cut out learns not to think." if kind == "thoughts" else ""
    return Finding(
        "warning",
        "rows_left_out",
        f"{count:,} {_rows(count)} {kind} that the chat template does not write{first}; they are trained without.{thinks}",
        "Set data.on_unwritten to content to keep thoughts and calls in the answer's text, or to refuse to leave such rows out.",
        "data.on_unwritten",
    )


def _of_opening(opening: Mapping[str, Any]) -> Finding:
    cure = f"Set data.chat_template_kwargs to {opening['cure']}, with which both are alike; or set " if opening["cure"] else "Set "
    count = int(opening["rows"])
    return Finding(
        "warning",
        "opening_differs",
        f"{count:,} {'row opens its answer' if count == 1 else 'rows open their answers'} with {opening['row']!r}, and the prompt at "
        f"inference ends with {opening['prompt']!r} (the first is {opening['first']}).",
        f"{cure}data.answer_opening to say whether the model learns to write the row's opening.",
        "data.answer_opening",
    )


def _of_end(count: int, manifest: Mapping[str, Any]) -> Finding:
    """Say that answers have no end token, whose lack it is, and the setting that helps."""
    ends = manifest.get("ends") or {}
    why, hint, field = "the chat template writes none there", "", "data.chat_template"
    if cure := ends.get("cure"):
        hint, field = f"Set data.chat_template_kwargs to {cure}, with which it writes it.", "data.chat_template_kwargs"
    elif ends.get("last"):
        hint, field = (
            (
                "Set data.train_on to each, which trains every answer in a row of its own: behind the last answer of a row the "
                "template writes it."
            ),
            "data.train_on",
        )
    elif ends.get("token"):
        hint = (
            f"No other setting adds it: set data.chat_template to instruct, which ends every answer with {ends['token']}, or to the "
            "template's own text with {{ eos_token }} written behind the last answer."
        )
    else:
        why, field = "the base model's tokenizer names none", "model.name_or_path"
        hint = "Name one as eos_token in its tokenizer_config.json, or choose a base model that has one."
    return Finding(
        "warning",
        "rows_unended",
        f"{count:,} {_rows(count)} an answer without its end token: {why}, and a model learns from them not to stop.",
        hint,
        field,
    )


def _rows(count: int) -> str:
    return "row has" if count == 1 else "rows have"
