"""No name that the rooms or the field's words replaced is left in the code or its documents."""

from __future__ import annotations

import ast
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


ONE_MEANING = {
    "AdapterSource",
    "Certificate",
    "DataFigures",
    "Layout",
    "Notice",
    "Progress",
    "RunState",
    "Step",
    "TokenCounts",
    "load_tokenizer",
    "read_config",
}


def test_a_name_means_one_thing() -> None:
    where: dict[str, list[str]] = {name: [] for name in ONE_MEANING}
    for file in sorted((ROOT / "lora_studio").rglob("*.py")):
        for name in set(_defined(ast.parse(file.read_text(encoding="utf-8")))) & ONE_MEANING:
            where[name].append(file.relative_to(ROOT).as_posix())
    assert {name: files for name, files in where.items() if len(files) > 1} == {}
    assert where["Certificate"] == ["lora_studio/export/verify/certificate.py"]
    assert where["read_config"] == ["lora_studio/core/config_files.py"]


def test_a_second_meaning_of_a_name_would_be_seen() -> None:
    source = "class Step: ...\nLayout = int\nProgress: TypeAlias = int\ndef read_config(): ...\nif True:\n    Notice = str\n"
    assert set(_defined(ast.parse(source))) == {"Step", "Layout", "Progress", "read_config", "Notice"}


def _defined(tree: ast.Module) -> Iterator[str]:
    """Return the names that a module defines outside functions and classes."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name
            case ast.Assign():
                yield from (target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name()):
                yield node.target.id  # type: ignore[union-attr]
            case ast.If() | ast.Try():
                waiting += [*node.body, *node.orelse]
            case _:
                pass


def test_what_returns_nothing_does_not_say_that_it_returns() -> None:
    wrong: list[str] = []
    for path in sorted((ROOT / "lora_studio").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Constant) and node.returns.value is None:
                wrong += [f"{path.name}: {node.name}"] if (ast.get_docstring(node) or "").startswith("Return") else []
    assert wrong == []
