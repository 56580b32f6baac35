"""No name that the rooms or the field's words replaced is left in the code or its documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SPEAKS_OF_OLD_NAMES = {"lora_studio/jobs/spec.py", "tests/train/test_earlier_releases.py", "tests/test_names.py", "CHANGELOG.md"}
GONE_MODULES = [
    "lora",
    "generate",
    "data.legacy",
    "data.hub",
    "data.lookahead",
    "data.traces",
    "data.cuts",
    "data.lens",
    "data.spans",
    "export.judge",
    "export.papers",
    "export.work",
    "export.offers",
    "export.public",
    "export.held_base",
    "export.hub",
    "export.arithmetic_certificate",
    "gui.studio",
    "gui.workspace",
    "gui.edits",
    "gui.planner",
    "gui.model_reader",
    "gui.data_reader",
    "gui.model_change",
    "gui.path_asker",
    "gui.drops",
    "gui.units",
    "gui.run_starter",
    "gui.run_view",
    "gui.pages",
    "gui.targets",
    "gui.dialogs",
    "gui.closing",
    "gui.problems",
    "gui.columns",
    "jobs.line",
    "models.hub_client",
    "models.hub_cache",
    "core.reach",
    "train.joined",
    "train.pieces",
    "train.logbook",
    "train.abandon",
]
GONE_NAMES = [
    "JoinedRanks",
    "Logbook",
    "ModelHost",
    "PathAsker",
    "ProblemCatcher",
    "DeviceLine",
    "HeldTensors",
    "Papers",
    "papers_of",
    "copy_papers",
    "Counting",
    "Cure",
    "ways_out",
    "RunStarter",
    "RunView",
    "Pieces",
    "ModelReader",
    "DataReader",
    "Planner",
    "ModelChange",
    "ExportKind",
    "lean_adapters",
    "lean_mlps",
    "lean_norms",
    "lean_lora",
    "is_lean",
    "at_first",
    "in_turn",
    "_heed",
    "_add_up",
]


def sources() -> Iterator[tuple[str, str]]:
    for folder in ("lora_studio", "tests", "benchmarks", "docs"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md") and file.is_file():
                yield file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8")


def left_over(pattern: str) -> list[str]:
    wanted = re.compile(pattern)
    return [f"{name}: {found[0]}" for name, text in sources() if name not in SPEAKS_OF_OLD_NAMES for found in wanted.finditer(text)]


def test_no_module_is_called_as_it_was() -> None:
    assert left_over(rf"\blora_studio\.({'|'.join(map(re.escape, GONE_MODULES))})\b(?!\.tasks|\.certificate)") == []


def test_no_name_is_left_that_the_fields_own_words_replaced() -> None:
    assert left_over(rf"(?<![\w-])({'|'.join(GONE_NAMES)})(?!\w)") == []


def test_docstrings_say_what_is_returned() -> None:
    assert left_over(r'"""Give ') == []
