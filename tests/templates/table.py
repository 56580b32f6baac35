"""One published template against all kinds of rows, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.data.rows.formats import parse_row
from lora_studio.data.rows.row import Row, RowError
from lora_studio.data.templates.template import ChatTemplate, Rendered, per_answer, wanted_answers
from lora_studio.data.tokens.encode import Encoder
from tests.templates.kinds import KINDS
from tests.templates.marks import tokenizer_for
from tests.templates.oracle import judge, render, shapes, words_of, written_whole

COLUMNS = {
    "rows": "rows",
    "rendered": "rendered",
    "told": "refused, reason true",
    "each": "rows by train_on: each",
    "each_told": "of these refused",
    "ids": "ids differ",
    "mask": "mask wrong",
    "stop": "stop token untrained",
    "lost": "lost in silence",
    "needless": "needless refusals",
    "alarm": "false alarms",
    "opening": "opening unsaid",
    "broken": "broke",
}
WRONG = ("ids", "mask", "stop", "lost", "needless", "alarm", "opening", "broken")


@dataclass
class Tally:
    """What was counted of one template, or of several."""

    name: str
    counts: Counter[str] = field(default_factory=Counter[str])
    notes: list[str] = field(default_factory=list[str])

    @property
    def wrong(self) -> int:
        """How many things are wrong."""
        return sum(self.counts[column] for column in WRONG)

    def add(self, column: str, kind: str, note: str = "") -> None:
        """Count one."""
        self.counts[column] += 1
        if column not in ("rows", "rendered"):
            self.notes.append(f"{column}: {kind}: {note}")

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        """Add up several."""
        whole = cls("all")
        for tally in tallies:
            whole.counts.update(tally.counts)
        return whole


def look_at(path: Path, folder: Path, kinds: Iterable[str] = tuple(KINDS)) -> Tally:
    """Try a template with rows of some kinds; `folder` keeps the tokenizer."""
    tally = Tally(path.stem)
    text = path.read_text(encoding="utf-8")
    tokenizer = tokenizer_for(text, folder)
    encoder = Encoder(tokenizer)
    with ChatTemplate(tokenizer) as template:
        for kind in kinds:
            tally.counts["rows"] += 1
            record = KINDS[kind]
            try:
                row = parse_row(record, "messages", "rows.jsonl", 1)
                found = _rendered(template, row)
            except RowError as error:
                row, found = None, error
            except InputError as error:
                tally.add("broken", kind, error.message)
                continue
            if isinstance(found, RowError):
                _refused(tally, kind, str(found), record, text, tokenizer)
                if row is not None and "data.train_on" in str(found):
                    _judge_each(tally, kind, record, row, text, tokenizer, encoder, template)
            else:
                assert row is not None
                tally.add("rendered", kind)
                _judge(tally, kind, record, row, found, text, tokenizer, encoder)
    return tally


def _rendered(template: ChatTemplate, row: Row) -> Rendered | RowError:
    return template.render_rows([row], "assistant")[0]


def _judge_each(
    tally: Tally,
    kind: str,
    record: dict[str, Any],
    row: Row,
    text: str,
    tokenizer: Any,
    encoder: Encoder,
    template: ChatTemplate,
) -> None:
    """Judge the rows that `train_on: each` makes of one that is refused as a whole."""
    parts = list(per_answer(row))
    for part, found in zip(parts, template.render_rows(parts, "each")):
        if isinstance(found, Rendered):
            tally.counts["each"] += 1
            cut = {**record, "messages": record["messages"][: len(part.messages)]}
            _judge(tally, f"{kind}, up to turn {len(part.messages)}", cut, part, found, text, tokenizer, encoder, "each")
        else:
            tally.counts["each_told"] += 1


def _refused(tally: Tally, kind: str, reason: str, record: dict[str, Any], text: str, tokenizer: Any) -> None:
    """Judge a refusal: needless where transformers renders the row whole and each answer stays as it was said."""
    for messages in shapes(record["messages"]):
        try:
            whole = render(text, tokenizer, messages, record.get("tools"))
        except Exception:
            continue
        sound = written_whole(whole, messages, record.get("tools")) and "is empty" not in reason
        if sound and not _rewrites(messages, record, text, tokenizer):
            tally.add("needless", kind, reason)
            return
    tally.add("told", kind, reason)


def _rewrites(messages: list[dict[str, Any]], record: dict[str, Any], text: str, tokenizer: Any) -> bool:
    """Return whether an answer stands otherwise in the whole than where it is the last one, but for its end."""
    whole = render(text, tokenizer, messages, record.get("tools"))
    for place, turn in enumerate(messages[:-1]):
        if turn["role"] != "assistant":
            continue
        try:
            alone = render(text, tokenizer, messages[: place + 1], record.get("tools"))
        except Exception:
            continue
        said = words_of([turn]) or {_text(turn)}
        ends = [alone.rfind(word) + len(word) for word in said if word in alone]
        if ends and not whole.startswith(alone[: max(ends)]):
            return True
    return False


def _judge(
    tally: Tally,
    kind: str,
    record: dict[str, Any],
    row: Row,
    found: Rendered,
    text: str,
    tokenizer: Any,
    encoder: Encoder,
    train_on: str = "assistant",
) -> None:
    tools, wanted = record.get("tools"), wanted_answers(row, train_on) or []
    fitting = [messages for messages in shapes(record["messages"]) if _same(text, tokenizer, messages, tools, found.text)]
    tokens = encoder.encode_row(found)
    encoding = tokenizer(found.text, add_special_tokens=False, return_offsets_mapping=True)
    if not fitting or encoding["input_ids"] != tokens.input_ids.tolist():
        tally.add("ids", kind, "another text" if not fitting else "other ids")
        return
    trained = [False] * len(found.text)
    for (start, end), learned in zip(encoding["offset_mapping"], tokens.trained.tolist()):
        trained[start:end] = [learned] * (end - start)
    verdict = judge(found.text, trained, record["messages"], wanted, text)
    unended = bool(encoder.unended(encoder.encode([found]))) or found.open_inside
    untrained = [fault for fault in verdict.stop if not (fault.startswith("none") and unended)]
    speaks = any(words_of([record["messages"][place]]) for place in wanted[-1:])
    faults = {
        "mask": ", ".join(verdict.mask),
        "stop": ", ".join(untrained),
        "lost": "" if found.lost else ", ".join(verdict.lost),
        "alarm": _alarm(found, verdict.lost, unended=unended and speaks and not any(fault.startswith("none") for fault in verdict.stop)),
    }
    for column, fault in faults.items():
        if fault:
            tally.add(column, kind, fault)
    if wanted:
        _judge_opening(tally, kind, found, fitting[0][: max(wanted)], tools, trained, text, tokenizer, alone=len(wanted) == 1)


def _alarm(found: Rendered, lost: list[str], *, unended: bool) -> str:
    if found.lost and not lost:
        return f"told lost: {found.lost}"
    return "told that no end is trained" if unended else ""


def _judge_opening(
    tally: Tally,
    kind: str,
    found: Rendered,
    before: list[dict[str, Any]],
    tools: Any,
    trained: list[bool],
    text: str,
    tokenizer: Any,
    *,
    alone: bool,
) -> None:
    try:
        opened = render(text, tokenizer, before, tools, opened=True)
    except Exception:
        return
    begins = next((at for at in range(len(opened), len(trained)) if trained[at]), len(opened))
    alike = found.text.startswith(opened) and not found.text[len(opened) : begins].strip()
    if not alike and not found.opening:
        common = next((at for at, (a, b) in enumerate(zip(opened, found.text)) if a != b), 0)
        tally.add("opening", kind, f"row {found.text[common - 20 : common + 20]!r}, prompt {opened[common - 20 :]!r}")
    if alike and found.opening and alone:
        tally.add("alarm", kind, f"told another opening: {found.opening}")


def _text(turn: dict[str, Any]) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content or ())


def _same(text: str, tokenizer: Any, messages: list[dict[str, Any]], tools: Any, rendered: str) -> bool:
    try:
        return render(text, tokenizer, messages, tools) == rendered
    except Exception:
        return False


def printed(tally: Tally, *, verbose: bool) -> str:
    """Return a line, and with `verbose` what is wrong below it."""
    line = f"{tally.name[:46]:46} " + " ".join(f"{column}={tally.counts[column]}" for column in COLUMNS if tally.counts[column])
    notes = [f"    {note[:400]}" for note in tally.notes if not note.startswith(("rendered", "rows"))] if verbose else []
    return "\n".join([line, *notes])


def page(tallies: list[Tally]) -> str:
    """Return the table as a page of the docs."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "jinja2"))
    head = ["template", *COLUMNS.values()]
    lines = [[tally.name, *(str(tally.counts[column]) for column in COLUMNS)] for tally in [Tally.sum(tallies), *tallies]]
    table = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines]]
    head_text = _HEAD.format(templates=len(tallies), kinds=len(KINDS), date=date.today().isoformat(), packages=packages)
    return head_text + "\n".join(table) + "\n"


_HEAD = """# Chat templates that were tried

{templates} published templates (llama.cpp's and TRL's, as `../shared/chat_templates` keeps them beside a checkout), each with {kinds} kinds
of rows (`tests/templates/kinds.py`), on {date} with {packages}. Made by `python -m tests.templates --docs docs/TEMPLATES.md`; each
template's own marks are special tokens of a small byte-level tokenizer.

- *rendered* and *refused, reason true* are what became of the rows with `train_on: assistant`. A refusal is true where the template itself
  refuses the row, leaves something of it out, or writes an answer otherwise once later turns follow.
- *rows by train_on: each* are those that were refused for the last of these reasons, taken apart into one row an answer.
- *ids differ*: not the tokens of what transformers renders. *mask wrong*: a word of an answer or its thoughts that is context, or a
  word of anyone else that is trained. *stop token untrained*: an end behind an answer that is neither trained nor told to be missing.
  *lost in silence*: a word of the row that is not in the text, unsaid. *opening unsaid*: the prompt at inference is not how the row
  goes on to its answer, unsaid. *false alarms*: something was told that is not so.

"""
