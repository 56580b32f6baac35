"""Progress: one line drawn over for a person, few lines for a log; sizes and times as a person reads them."""

from __future__ import annotations

import io
import re

import pytest

from lora_studio.cli.console import Console
from lora_studio.cli.progress import ProgressPrinter
from lora_studio.cli.units import in_bytes, in_time, table
from lora_studio.core.events import Memory, Notice, Phase, RunEvent, RunFinished, RunStarted, Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of the usual width, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "100")


def events(steps: int = 40) -> list[RunEvent]:
    found: list[RunEvent] = [
        Phase(name="loading", message="Loading the model"),
        Phase(name="downloading", message="Downloading", done=5e8, total=2e9, unit="bytes"),
        RunStarted(
            total_steps=steps,
            train_rows=9,
            eval_rows=1,
            trainable_parameters=1000,
            all_parameters=9000,
            device="cpu",
            compute_dtype="float32",
        ),
        Notice(level="warning", code="cut", message="Rows were cut.", hint="Raise max_length."),
    ]
    for number in range(1, steps + 1):
        found += [
            Memory(resident=2_500_000_000),
            Step(
                step=number,
                loss=2.0,
                learning_rate=1e-3,
                grad_norm=1.0,
                tokens=9,
                trained_tokens=5,
                tokens_per_second=321.0,
                epoch=0.5,
                seconds=2.0,
            ),
        ]
    return [*found, RunFinished()]


def drawn(stream: io.StringIO) -> str:
    progress = ProgressPrinter(Console(io.StringIO(), stream))
    for event in events():
        progress.show(event)
    return stream.getvalue()


def test_what_a_step_makes_of_the_device_stands_beside_its_speed() -> None:
    stream = Terminal()
    progress = ProgressPrinter(Console(io.StringIO(), stream))
    progress.show(
        Step(
            step=1,
            loss=2.0,
            learning_rate=1e-3,
            grad_norm=1.0,
            tokens=9,
            trained_tokens=5,
            tokens_per_second=321.0,
            epoch=0.5,
            seconds=2.0,
            utilization=0.414,
        )
    )
    assert "321 tokens/s (41% of peak)" in stream.getvalue()


def test_a_terminal_has_one_line_drawn_over_and_wiped_at_the_end() -> None:
    text = drawn(Terminal())
    assert "━" in text
    assert "25% Downloading: 500.0 MB of 2.00 GB" in text
    assert "step 20/40 · loss 2.0000 · 321 tokens/s · 2.50 GB · 40 s left" in text
    assert text.endswith("\r\x1b[K")
    lines = text.count("\n")
    assert lines == 2  # what stays: how it started, and the warning


def test_a_log_file_has_no_control_characters_and_few_lines() -> None:
    text = drawn(io.StringIO())
    assert not re.search(r"[\r\x1b]", text)
    assert len([line for line in text.splitlines() if line.startswith("step ")]) == 11
    assert "warning: Rows were cut. Raise max_length." in text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.50 kB"),
        (270e6, "270.0 MB"),
        (1.234e9, "1.23 GB"),
    ],
)
def test_sizes_are_decimal(count: float, text: str) -> None:
    assert in_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert in_time(seconds) == text


def test_columns_line_up() -> None:
    assert table([("a", "1"), ("long", "22")], right=(1,)) == ["a      1", "long  22"]
