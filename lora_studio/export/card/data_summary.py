"""What a model card says of the data: names of files and counts, from the run's `data.json`; never a path or a row. No torch here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lora_studio.export.redact import code, last_part, plain

_MOST_FILES = 20
_HUB_DATA = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)", re.ASCII)


def data_lines(path: Path) -> list[str]:
    """Return the lines about a run's data; a record that is missing or cannot be read gives none."""
    record = _read(path)
    files = _files(record)
    if not files:
        return []
    shown = [_told(file) for file in files[:_MOST_FILES]]
    more = [f"{len(files) - _MOST_FILES} more files"] if len(files) > _MOST_FILES else []
    return [f"data: {', '.join([*shown, *more])}", *_counts(record)]


def hub_datasets(path: Path) -> list[str]:
    """Name the Hub's data sets that a run's data came from, each once."""
    found = (_HUB_DATA.match(str(file.get("path", ""))) for file in _files(_read(path)))
    return list(dict.fromkeys(match[1] for match in found if match))


def _read(path: Path) -> dict[str, Any]:
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # a card without this line is still true
    return record if isinstance(record, dict) else {}


def _files(record: dict[str, Any]) -> list[dict[str, Any]]:
    files: Any = record.get("files")
    if not isinstance(files, list):
        return []
    return [file if isinstance(file, dict) else {"path": str(file)} for file in files]


def _told(file: dict[str, Any]) -> str:
    path = str(file.get("path", ""))
    name = path if _HUB_DATA.match(path) else last_part(path)
    words = [f"{file['rows']:,} rows" if isinstance(file.get("rows"), int) else "", plain(str(file.get("format") or ""))]
    words.append("held out" if file.get("split") == "eval" else "")
    told = ", ".join(word for word in words if word)
    return code(name) + (f" ({told})" if told else "")


def _counts(record: dict[str, Any]) -> list[str]:
    told: list[str] = []
    trained_rows, held_out, tokens = record.get("train_rows"), record.get("eval_rows"), record.get("tokens")
    if isinstance(trained_rows, int):
        told.append(f"{trained_rows:,} rows trained on" + (f", {held_out:,} held out" if isinstance(held_out, int) and held_out else ""))
    total, trained = (tokens.get("total"), tokens.get("trained")) if isinstance(tokens, dict) else (None, None)
    if isinstance(total, int) and isinstance(trained, int):
        told.append(f"{trained:,} of {total:,} tokens trained ({trained / total if total else 0.0:.1%})")
    return told
