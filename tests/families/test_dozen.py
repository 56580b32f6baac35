"""A dozen families a day through the long suite's trial: another dozen every day."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import pytest

from tests.families.configs import families, tiny_family_config
from tests.families.known import KNOWN
from tests.families.runner import Results, run_families
from tests.families.table import line, table
from tests.families.trial import CHECKS, Outcome

_DOZEN = 12
_SECONDS = 50.0
"""After these no further family is begun: on a busy machine there are fewer of them."""
_LIMIT = 300.0


def dozen(day: int) -> list[str]:
    """The families of a day, counted from year 1; `LORA_STUDIO_FAMILIES` names others."""
    named = os.environ.get("LORA_STUDIO_FAMILIES")
    if named:
        return named.split(",")
    everything = [name for name in families() if "config" not in KNOWN.get(name, {})]
    start = day * _DOZEN % len(everything)
    return (everything + everything)[start : start + _DOZEN]


def news(outcome: Outcome) -> dict[str, str]:
    """What falls short of a family and is not known to."""
    known = KNOWN.get(outcome.family, {})
    return {check: said for check, said in outcome.shortfalls.items() if check not in known}


def test_a_dozen_families_are_inspected_planned_trained_and_exported_as_plain_transformers_has_it(tmp_path: Path) -> None:
    names = dozen(date.today().toordinal())
    print("families of the day:", ",".join(names))  # noqa: T201 (shown where the test fails, to run them again)
    began, found = time.monotonic(), []
    for outcome in run_families(names, Results(tmp_path), _LIMIT):
        print(line(outcome))  # noqa: T201
        found.append(outcome)
        if time.monotonic() - began > _SECONDS:
            break
    assert {outcome.family: news(outcome) for outcome in found if news(outcome)} == {}


def test_every_family_has_its_day_and_a_day_its_families() -> None:
    everything = {name for name in families() if "config" not in KNOWN.get(name, {})}
    days = range(-(-len(everything) // _DOZEN))
    assert dozen(5) == dozen(5)
    assert {name for day in days for name in dozen(day)} == everything
    assert all(len(set(dozen(day))) == _DOZEN for day in days)


def test_what_is_known_to_fall_short_is_of_families_and_checks_that_there_are() -> None:
    assert KNOWN.keys() <= set(families())
    assert {check for known in KNOWN.values() for check in known} <= {*CHECKS, "config", "time"}


def test_outcomes_are_kept_and_a_later_call_goes_on_from_them(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.write(Outcome("llama", "LlamaForCausalLM", 7, {"config": "yes", "merged": "RuntimeError: sizes"}))
    (tmp_path / "mamba.json").write_text('{"family": "mamba", "versions": {"transformers": "4.0"}}')
    assert results.read("mamba") is None
    (outcome,) = run_families(["llama"], results)
    assert news(outcome) == {"merged": "RuntimeError: sizes"}
    assert "merged: RuntimeError: sizes" in table([outcome])


def test_a_family_that_does_not_end_is_ended_and_told_of(tmp_path: Path) -> None:
    (outcome,) = run_families(["llama"], Results(tmp_path), 0.0)
    assert outcome.shortfalls == {"time": "did not end within 0 s"}


@pytest.mark.parametrize("family", ["llama", "qwen3_5", "deepseek_v3", "mamba2"])
def test_a_tiny_config_keeps_its_family_and_is_small(family: str) -> None:
    config = tiny_family_config(family)
    assert config.model_type == family
    assert config.get_text_config().hidden_size <= 64
