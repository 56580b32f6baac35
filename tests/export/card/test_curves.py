"""The picture of the curves: what it shows, and that it is a picture."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from lora_studio.core.events import Evaluation, Step
from lora_studio.core.history import RunHistory
from lora_studio.export.card.curves import HEIGHT, WIDTH, curves_svg, thinned, ticks

SVG = "{http://www.w3.org/2000/svg}"


def history(losses: list[float], evaluations: dict[int, float] | None = None) -> RunHistory:
    made = RunHistory()
    for number, loss in enumerate(losses, start=1):
        made.add(
            Step(
                seq=number,
                time=float(number),
                attempt=1,
                step=number,
                epoch=0.0,
                loss=loss,
                learning_rate=1e-3,
                grad_norm=1.0,
                tokens=1,
                trained_tokens=1,
                tokens_per_second=1.0,
                seconds=1.0,
                peak_memory=0,
            )
        )
        if evaluations and number in evaluations:
            made.add(
                Evaluation(
                    seq=number, time=float(number), attempt=1, step=number, loss=evaluations[number], rows=1, trained_tokens=1, seconds=0.1
                )
            )
    return made


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [[tuple(float(part) for part in pair.split(",")) for pair in line.attrib["points"].split()] for line in found]  # type: ignore[misc]


def test_the_curves_stand_in_the_picture_and_fall_as_the_loss_does() -> None:
    raw, smooth, evaluation = lines(curves_svg(history([4.0, 3.0, 2.0, 1.0], {2: 3.5, 4: 1.5}), "a run"))
    for line in (raw, smooth, evaluation):
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in line)
        assert line == sorted(line)  # to the right, and down
    assert (len(raw), len(evaluation)) == (4, 2)


def test_a_loss_that_is_no_number_is_left_out() -> None:
    assert len(lines(curves_svg(history([4.0, math.nan, math.inf, 1.0]), "a run"))[0]) == 2


@pytest.mark.parametrize("losses", [[], [1.0], [math.nan, math.nan, 2.0]])
def test_a_run_with_no_curve_has_no_picture(losses: list[float]) -> None:
    assert curves_svg(history(losses), "a run") == ""


def test_a_spike_leaves_the_other_losses_room() -> None:
    raw = lines(curves_svg(history([2.0 - 0.001 * number for number in range(500)] + [1e6] + [1.5] * 100), "a run"))[0]
    top, bottom = min(y for _x, y in raw), max(y for _x, y in raw)
    settled = [y for x, y in raw if x < WIDTH / 2]
    assert max(settled) - min(settled) > (bottom - top) / 3


def test_a_flat_curve_has_a_place() -> None:
    assert lines(curves_svg(history([2.0, 2.0, 2.0]), "a run"))


def test_a_long_curve_is_thinned_with_its_extremes_kept() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(100_000)]
    points[77_777] = (77_777.0, 9.0)
    kept = thinned(points)
    assert len(kept) <= 600
    assert (77_777.0, 9.0) in kept


def test_a_title_is_text_and_no_markup() -> None:
    svg = curves_svg(history([2.0, 1.0]), "<script>alert(1)</script>")
    assert "<script" not in svg
    assert ElementTree.fromstring(svg).findtext(f"{SVG}title") == "<script>alert(1)</script>"


def test_the_picture_refers_to_nothing_elsewhere() -> None:
    svg = curves_svg(history([2.0, 1.0]), "a run")
    assert "href" not in svg
    assert svg.count("http") == 1  # the name of its own format


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.9, 2.1, [1.0, 1.5, 2.0]), (1, 72, [20, 40, 60]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected
