"""What of the data a person may want to change before a run, each with the one edit that cures it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_studio.data.bad_rows import refused_rows
from lora_studio.data.check import setting_of
from lora_studio.data.readers.columns import suggest_columns
from lora_studio.data.rows.row import BadRow
from lora_studio.data.trainable import method_findings
from lora_studio.gui.data_page.files.preview import first_keys, fitting_encoding
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.config import RunConfig
    from lora_studio.data.check import DataCheck
    from lora_studio.data.rows.row import BadRow
    from lora_studio.models.facts import ModelFacts

_ROUND_TO = 64
_CONTENT = "data.on_unwritten to content"  # as a refused row's reason names this way out
_CONVERSATIONS = ("messages", "sharegpt")
COLUMNS, TEMPLATE, BAD_ROWS, SETTING = "columns", "template", "bad_rows", "setting"


@dataclass(frozen=True)
class Problem:
    """Something about the data a person may want to change.

    Attributes:
        id: A word for it.
        level: error, warning or info.
        text: What it is, as sentences.
        action: What the cure's button says; empty where the studio has none to offer.
        changes: The edit that cures it.
        leads_to: What to show instead, where a person has to choose: `COLUMNS`, `TEMPLATE`, `BAD_ROWS` or `SETTING`.
        other: Another cure, with a button of its own.
    """

    id: str
    level: str
    text: str
    action: str = ""
    changes: Mapping[str, object] = field(default_factory=dict[str, object])
    leads_to: str = ""
    other: Problem | None = None


def problems_of(config: RunConfig, check: DataCheck | None, report: Mapping[str, Any] | None) -> list[Problem]:
    """Return what stands out, the gravest first: in the files as they are, then in the rows as tokens."""
    problems: list[Problem] = []
    if check is not None:
        problems += [*_encoding(check), *_unknown_keys(config, check), *_preference(config, check)]
        problems += [*_bad_rows(config, check), *_refused(config, refused_rows(check, report)), *_repeats(check)]
    if report is not None:
        problems += [*_unended(report), *_of_template(report)]
        problems += [*_lengths(report, config.data.max_length), *_untrained(report, config.data.max_length)]
    return problems


def problem_of_error(message: str, hint: str, field: str, config: RunConfig) -> Problem:
    """Return the cure of what makes the data unusable as a whole, by the setting it names."""
    text = f"{message} {hint}".strip()
    if field == "data.train_on" and config.data.train_on != "last":
        return _of_history("error", "error", text)
    if field == "data.on_unwritten":
        return _unwritten("error", "error", text, config, message)
    if field == "data.chat_template":
        return Problem("error", "error", text, tr("Choose a chat template…"), leads_to=TEMPLATE)
    if field == "data.encoding" and (offer := fitting_encoding(config.data)):
        return Problem("error", "error", text, tr("Use {offer}", offer=offer), {"data.encoding": offer})
    return Problem("error", "error", text, tr("Go to the setting"), leads_to=SETTING)


def template_problem(config: RunConfig, check: DataCheck | None, facts: ModelFacts | None) -> list[Problem]:
    """Say that the base model brings no chat template for conversations that want one."""
    if facts is None or facts.has_chat_template or (config.data.chat_template or "").strip() or check is None:
        return []
    if not any(file.format in _CONVERSATIONS and file.rows for file in check.files):
        return []
    text = tr("The base model has no chat template, and the rows are conversations.")
    return [Problem("template", "error", text, tr("Choose a chat template…"), leads_to=TEMPLATE)]


def _encoding(check: DataCheck) -> list[Problem]:
    offer = check.encoding_offer
    if not offer:
        return []
    names = ", ".join(Path(file.path).name for file in check.files if file.encoding)
    text = tr("Lines of {names} are not UTF-8; they read as {offer}.", names=names, offer=offer)
    if check.other_encodings:
        text += " " + tr("So they do as {others}.", others=", ".join(check.other_encodings))
    return [Problem("encoding", "warning", text, tr("Use {offer}", offer=offer), {"data.encoding": offer})]


def _unknown_keys(config: RunConfig, check: DataCheck) -> list[Problem]:
    """Files none of whose rows has a key we know: a suggestion, or a place to say it."""
    unknown = [file for file in check.files if not file.format and file.bad_rows]
    keys = first_keys(check, config.data) if unknown and not config.data.columns and config.data.format == "auto" else []
    if not keys:
        return []
    text = tr(
        "No row of {name} has a key that says how it is read; its columns are {keys}.",
        name=Path(unknown[0].path).name,
        keys=", ".join(keys[:8]),
    )
    suggested = suggest_columns(keys)
    if not suggested:
        return [Problem("columns", "error", text, tr("Map the columns"), leads_to=COLUMNS)]
    pairs = ", ".join(f"{ours} = {theirs}" for ours, theirs in suggested.items())
    return [Problem("columns", "error", text, tr("Use {pairs}", pairs=pairs), {"data.columns": suggested})]


def _preference(config: RunConfig, check: DataCheck) -> list[Problem]:
    findings = method_findings(check, config.training.method)
    if not findings:
        return []
    text = f"{findings[0].message} {'' if findings[0].code == 'preference_rows' else findings[0].hint}".strip()
    if findings[0].code != "preference_rows" or "prompt" not in first_keys(check, config.data):
        return [Problem("preference", "error", text, tr("Map the columns"), leads_to=COLUMNS)]
    changes = {"data.format": "prompt_completion", "data.columns": {"prompt": "prompt", "completion": "chosen"}}
    return [Problem("preference", "error", text, tr("Learn the chosen answers"), changes)]


def _bad_rows(config: RunConfig, check: DataCheck) -> list[Problem]:
    if not check.bad_count or config.data.on_bad_rows == "skip":
        return []
    first = check.bad_rows[0]
    count = tr("1 bad row stops") if check.bad_count == 1 else tr("{count} bad rows stop", count=format_count(check.bad_count))
    text = tr(
        "{count} a run; the first: {file}:{line}: {reason}.", count=count, file=Path(first.file).name, line=first.line, reason=first.reason
    )
    if not check.train_rows:
        return [Problem("bad_rows", "error", text, tr("Show bad rows"), leads_to=BAD_ROWS)]
    return [Problem("bad_rows", "warning", text, tr("Skip bad rows"), {"data.on_bad_rows": "skip"})]


def _refused(config: RunConfig, rows: tuple[BadRow, ...]) -> list[Problem]:
    """Rows that read well and that the chat template refuses, by the setting that takes them in; a warning where they are only left out."""
    by_setting: dict[str, list[BadRow]] = {}
    for row in rows:
        by_setting.setdefault(setting_of([row]), []).append(row)
    return [_of_refused(config, setting, refused) for setting, refused in by_setting.items()]


def _of_refused(config: RunConfig, setting: str, rows: list[BadRow]) -> Problem:
    stops = config.data.on_bad_rows == "stop"
    first, count = rows[0], format_count(len(rows))
    count_text = tr("Rows that stop a run: {count}", count=count) if stops else tr("Rows that are left out: {count}", count=count)
    text = tr(
        "{told}; the first: {file}:{line}: {reason}.", told=count_text, file=Path(first.file).name, line=first.line, reason=first.reason
    )
    identity, level = f"refused_{setting.rpartition('.')[2] or 'rows'}", "error" if stops else "warning"
    if setting == "data.on_unwritten":
        return _unwritten(identity, level, text, config, " ".join(row.reason for row in rows))
    if setting == "data.train_on":
        return _of_history(identity, level, text)
    if stops:
        return Problem(identity, level, text, tr("Skip bad rows"), {"data.on_bad_rows": "skip"})
    return Problem(identity, level, text, tr("Show bad rows"), leads_to=BAD_ROWS)


def _unwritten(identity: str, level: str, text: str, config: RunConfig, reasons: str) -> Problem:
    """Offer what becomes of what the chat template does not write; the content holds no more than what the reasons say it can."""
    content = Problem(identity, level, text, tr("Keep in the content"), {"data.on_unwritten": "content"})
    helps = config.data.on_unwritten != "content" and _CONTENT in reasons
    return Problem(identity, level, text, tr("Train without"), {"data.on_unwritten": "without"}, other=content if helps else None)


def _of_history(identity: str, level: str, text: str) -> Problem:
    """Offer both cures of a template that rewrites earlier turns."""
    each = Problem(identity, level, text, tr("Train each answer in a row of its own"), {"data.train_on": "each"})
    return Problem(identity, level, text, tr("Train on the last answer"), {"data.train_on": "last"}, other=each)


def _repeats(check: DataCheck) -> list[Problem]:
    problems: list[Problem] = []
    if check.shared_rows:
        text = tr(
            "Training rows that stand in the evaluation data, too: {count}. Its loss will look better than it is.",
            count=format_count(check.shared_rows),
        )
        problems.append(Problem("shared", "warning", text, tr("Hold out training rows instead"), {"data.eval": ()}))
    if check.duplicate_rows:
        text = tr(
            "Training rows that repeat one before them: {count}. They weigh more than once.", count=format_count(check.duplicate_rows)
        )
        problems.append(Problem("duplicates", "info", text))
    return problems


def _unended(report: Mapping[str, Any]) -> list[Problem]:
    if not report["unended_rows"]:
        return []
    text = tr(
        "Rows that train no end token: {count}. The chat template writes none, and the model would not learn to stop.",
        count=format_count(int(report["unended_rows"])),
    )
    unended = next((entry for entry in report.get("findings", ()) if entry["code"] == "rows_unended"), None)
    if unended is None or unended["field"] == "data.chat_template":
        return [Problem("unended", "warning", text, tr("Choose a chat template"), leads_to=TEMPLATE)]
    text = f"{unended['message']} {unended['hint']}"
    if unended["field"] == "data.train_on":
        return [Problem("unended", "warning", text, tr("Train each answer in a row of its own"), {"data.train_on": "each"})]
    return [Problem("unended", "warning", text, tr("Go to the setting"), leads_to=SETTING)]


def _of_template(report: Mapping[str, Any]) -> list[Problem]:
    """What the chat template left out, and where it opens answers otherwise than the prompt at inference."""
    entries = [entry for entry in report.get("findings", ()) if entry["code"] != "rows_unended"]
    return [
        Problem(
            entry["code"],
            "info" if entry["level"] == "note" else entry["level"],
            f"{entry['message']} {entry['hint']}".strip(),
            tr("Go to the setting"),
            leads_to=SETTING,
        )
        for entry in entries
    ]


def _lengths(report: Mapping[str, Any], max_length: int) -> list[Problem]:
    longest, cut = int(report["tokens"]["max"]), int(report["truncated_rows"])
    wanted = _rounded(longest)
    change: dict[str, object] = {"data.max_length": wanted}
    action = tr("Set max_length to {length}", length=format_count(wanted))
    if cut and longest > max_length:
        text = tr(
            "Rows cut at max_length {length}: {count}. The longest has {longest} tokens.",
            count=format_count(cut),
            length=format_count(max_length),
            longest=format_count(longest),
        )
        return [Problem("cut", "warning", text, action, change)]
    if longest and longest * 2 <= max_length:
        text = tr(
            "No row is longer than {longest} tokens: a max_length of {wanted} cuts none, and memory is estimated closer.",
            longest=format_count(longest),
            wanted=format_count(wanted),
        )
        return [Problem("short", "info", text, action, change)]
    return []


def _untrained(report: Mapping[str, Any], max_length: int) -> list[Problem]:
    count = int(report["untrained_rows"])
    if not count:
        return []
    first = next(iter(report.get("untrained", ())), "")
    named = tr(" (the first is {place})", place=Path(first).name) if first else ""
    text = tr(
        "Rows that train nothing: {count}{named}. They are cut before their answer, or none of their turns is trained.",
        count=format_count(count),
        named=named,
    )
    longest = int(report["tokens"]["max"])
    if longest <= max_length:
        return [Problem("untrained", "warning", text)]
    wanted = _rounded(longest)
    action = tr("Set max_length to {length}", length=format_count(wanted))
    return [Problem("untrained", "warning", text, action, {"data.max_length": wanted})]


def _rounded(length: int) -> int:
    return -(-length // _ROUND_TO) * _ROUND_TO
