"""The table of other programs: the docs and what the program says come from the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.paths import resources_folder
from lora_studio.export.measured import Measured, outcome_of, readers, rotary_of
from tests.consumers.readers import READERS
from tests.consumers.subjects import TINY, shape_of
from tests.consumers.table import page

_ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize(("difference", "top1", "error", "outcome"), [
    (1e-5, 1.0, "", "same"), (1e-3, 1.0, "", "near"), (1e-3, 0.9, "", "other"), (1.0, 1.0, "", "other"), (-1.0, 0.0, "ValueError", "no"),
])
def test_a_figure_means_one_thing(difference: float, top1: float, error: str, outcome: str) -> None:
    assert outcome_of(Measured("a", "merged", "b", difference, top1, None, error)) == outcome


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
