"""Events are JSON both ways, told apart by their name; torn lines cost themselves alone."""

from __future__ import annotations

import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lora_studio.core.events import Memory, Notice, Phase, RunEvent, RunFinished, Sample, Step, event_from_json, event_to_json, read_events

STEP = Step(step=1, loss=1.5, learning_rate=1e-4, grad_norm=0.5, tokens=10, trained_tokens=4, tokens_per_second=9.5, epoch=0.1, seconds=0.2)


def event_classes() -> list[type]:
    return list(get_args(get_args(RunEvent)[0]))


def test_every_event_has_a_name_of_its_own() -> None:
    names = [kind.model_fields["event"].default for kind in event_classes()]  # type: ignore[attr-defined]
    assert len(set(names)) == len(names) == 13


@given(st.floats(), st.integers(min_value=0, max_value=2**62), st.text())
def test_numbers_and_texts_come_back_as_they_went(number: float, count: int, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    step = event_from_json(event_to_json(STEP.model_copy(update={"loss": number, "tokens": count})))
    assert isinstance(step, Step)
    assert step.loss == number or (math.isnan(step.loss) and math.isnan(number))
    assert step.tokens == count
    sample = Sample(label="after", row=1, prompt=text, reference="", text=text)
    assert event_from_json(event_to_json(sample)) == sample


def test_an_event_is_one_line() -> None:
    line = event_to_json(Notice(code="x", message="two\nlines\r and \u2028 more"))
    assert len(line.split("\n")) == 1
    assert json.loads(line)["event"] == "notice"


def test_fields_of_a_later_release_are_passed_over() -> None:
    event = event_from_json('{"event": "phase", "name": "loading", "colour": "blue"}')
    assert event == Phase(name="loading")


@pytest.mark.parametrize("line", ["", "{", "[]", '{"event": "nonsense"}', '{"event": "step"}', "null", '{"event": "phase", "name": 3}'])
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        event_from_json(line)


def test_torn_and_foreign_lines_are_passed_over() -> None:
    lines = [event_to_json(STEP).encode(), b"\xff\xfe", b"", b'{"event": "other"}', event_to_json(RunFinished()).encode(), b'{"event": "st']
    assert [event.event for event in read_events(lines)] == ["step", "run_finished"]


def test_an_event_does_not_change() -> None:
    with pytest.raises(ValidationError):
        STEP.loss = 2.0  # type: ignore[misc]


def test_figures_a_machine_lacks_are_none_not_zero() -> None:
    assert event_from_json(event_to_json(Memory(resident=1))).model_dump()["cuda_allocated"] is None
