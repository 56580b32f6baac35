"""The table of other programs: the docs and what the program says come from the same figures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.paths import resources_folder
from lora_studio.export.card.measured import Measured, outcome_of, readers, rotary_of
from tests.consumers.readers import READERS
from tests.consumers.subjects import TINY, Subject, shape_of
from tests.consumers.table import page, write_results

_ROOT = Path(__file__).resolve().parents[3]
DOCUMENT: dict[str, Any] = json.loads((resources_folder() / "consumers.json").read_text(encoding="utf-8"))


def test_the_docs_page_is_made_of_the_figures_that_the_program_goes_by() -> None:
    assert (_ROOT / "docs" / "CONSUMERS.md").read_text(encoding="utf-8") == page(DOCUMENT)


def test_every_model_and_program_of_the_suite_has_a_figure_or_an_error() -> None:
    assert {one["name"] for one in DOCUMENT["subjects"]} == {"starter", *TINY}
    programs = {program for reader in READERS for program in reader.programs.values()}
    found = {(entry["program"], entry["form"], entry["subject"]) for entry in DOCUMENT["results"]}
    assert programs <= {program for program, _, _ in found}
    for reader in READERS:
        for form, program in reader.programs.items():
            assert {subject for name, kind, subject in found if (name, kind) == (program, form)} == {"starter", *TINY}


@pytest.mark.parametrize(
    ("difference", "top1", "error", "outcome"),
    [
        (1e-5, 1.0, "", "same"),
        (1e-3, 1.0, "", "near"),
        (1e-3, 0.9, "", "other"),
        (1.0, 1.0, "", "other"),
        (-1.0, 0.0, "ValueError", "no"),
    ],
)
def test_a_figure_means_one_thing(difference: float, top1: float, error: str, outcome: str) -> None:
    assert outcome_of(Measured("a", "merged", "b", difference, top1, None, error)) == outcome


def test_no_folder_or_host_of_the_machine_that_measured_is_told() -> None:
    found = {
        "program": "a",
        "form": "merged",
        "subject": "b",
        "error": "OSError: no file at '/root/x/merged', see https://host.example/a/b",
    }
    assert Measured.of(found, "2026-01-01").error == "OSError: no file at 'merged', see https:b"
    told = [entry["error"] for entry in DOCUMENT["results"]]
    assert not [error for error in told if re.search(r"/\w[^\s/]*/|://|host=|\.py[\"']", error)]


def test_what_was_not_run_is_neither_a_yes_nor_a_no() -> None:
    row = Measured("a", "merged", "llama", error="nothing was written", date="2026-01-01", ran=False).to_json()
    told = page({"here": {}, "subjects": [{"name": "llama"}], "results": [row]})
    assert "| llama | not run |" in told
    assert "- a, llama: nothing was written" in told


def test_a_row_that_was_not_run_is_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = {
        "subjects": [{"name": "llama", "family": "llama", "rotary": "", "experts": False}],
        "results": [Measured("a", "merged", "llama", ran=False).to_json(), Measured("b", "merged", "llama", 1e-6, 1.0).to_json()],
    }
    (tmp_path / "consumers.json").write_text(json.dumps(table))
    monkeypatch.setattr("lora_studio.export.card.measured.resources_folder", lambda: tmp_path)
    assert [reader.program for reader in readers({"model_type": "llama"}, "merged")] == ["b"]


@pytest.mark.parametrize(("peft", "kept"), [("1", {"llama": "2026-01-01", "gpt2": "2026-02-02"}), ("2", {"gpt2": "2026-02-02"})])
def test_a_part_measured_again_stands_beside_the_rest_where_both_are_held_against_the_same(
    peft: str, kept: dict[str, str], tmp_path: Path
) -> None:
    for folder in ("docs", "resources"):
        (tmp_path / folder).mkdir()
    for name, date, version in (("llama", "2026-01-01", "1"), ("gpt2", "2026-02-02", peft)):
        found = {"program": "mlx-lm 0.32.2", "form": "merged", "subject": name, "difference": 1e-6, "top1": 1.0}
        write_results(tmp_path, [Subject(name, name, "", experts=False, base="")], [found], date, {"peft": version})
    written = json.loads((tmp_path / "resources" / "consumers.json").read_text())
    assert {entry["subject"]: entry["date"] for entry in written["results"]} == kept


def test_a_tokenizer_that_reads_otherwise_is_no_success() -> None:
    assert outcome_of(Measured("a", "merged", "b", 0.0, 1.0, tokenizer=False)) == "no"


@pytest.mark.parametrize("name", TINY)
def test_a_models_rotary_settings_find_their_own_rows(name: str, tmp_path: Path) -> None:
    from tests.tiny import tiny_config

    architecture, rotary, changes = TINY[name]
    tiny_config(architecture, **{**shape_of(architecture), **changes}).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert rotary_of(config) == rotary
    assert readers(config, "merged")
