from __future__ import annotations

import pytest
from PySide6.QtWidgets import QLabel

from lora_studio.core.events import RunFinished, Sample
from lora_studio.gui.train_page.before_after import BeforeAfterCard, share_text
from lora_studio.inference.json_score import JsonShare, has_reference_keys, json_share
from tests.gui.desk import Desk
from tests.gui.tasks import REFERENCE, samples


def sample(text: str, reference: str = REFERENCE) -> Sample:
    return Sample(label="after", row=0, prompt="p", reference=reference, text=text)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"urgency": "high", "queue": "x"}', True),
        (' {"queue": 1, "urgency": 2}\n', True),
        ('{"queue": "x"}', False),
        ('{"queue": 1, "urgency": 2, "more": 3}', False),
        ('Sure: {"queue": 1, "urgency": 2}', False),
        ("", False),
        ("[1]", False),
        ("[" * 9000, False),
    ],
)
def test_an_answer_counts_when_it_is_json_with_exactly_the_references_keys(text: str, right: bool) -> None:
    assert has_reference_keys(sample(text)) is right


def test_the_share_leaves_out_rows_whose_reference_is_no_json() -> None:
    assert json_share([sample(REFERENCE), sample("no"), sample("no", "plain words")]) == JsonShare(1, 2)
    assert json_share([sample("no", "plain words")]) is None


def test_the_share_counts_all_sampled_rows_before_and_after() -> None:
    assert share_text(samples("before", "Dear customer"), samples("after", REFERENCE)) == "JSON with the right keys: 0 of 3 → 3 of 3"


def test_the_card_shows_answers_as_they_come(desk: Desk) -> None:
    card = BeforeAfterCard(desk.run_view)
    desk.qtbot.addWidget(card)
    assert card.isHidden()
    events = [*samples("before", "Dear customer"), *samples("after", REFERENCE), RunFinished()]
    desk.run_view.open(desk.past_run(events[:3]).path)
    assert card.text == "JSON with the right keys: 0 of 3"
    assert card.findChild(QLabel, "after_0").text() == "…"
    desk.run_view.open(desk.past_run(events).path)
    assert card.findChild(QLabel, "before_1").text() == "✗ Dear customer"
    assert card.findChild(QLabel, "after_1").text() == f"✓ {REFERENCE}"


def test_another_run_without_samples_empties_the_card(desk: Desk) -> None:
    card = BeforeAfterCard(desk.run_view)
    desk.qtbot.addWidget(card)
    desk.run_view.open(desk.past_run([*samples("before", "x"), RunFinished()]).path)
    desk.run_view.open(desk.past_run([RunFinished()]).path)
    assert card.isHidden()
