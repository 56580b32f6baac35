"""The certificate as a page: every value stands in it as text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from lora_studio.export.verify.certificate_page import certificate_page

NASTY = "<b>&amp;'\"</b>{{ 7 * 7 }}"
CERTIFICATE: dict[str, Any] = {
    "kind": "merged",
    "verdict": "rounded",
    "passed": True,
    "reason": "",
    "offers_float32": True,
    "effect_lost": 0.015,
    "update_lost": 0.2,
    "dtype": NASTY,
    "grade": "logits",
    "loaded_by": NASTY,
    "rows": 8,
    "rows_from": NASTY,
    "positions": 1000,
    "tensors_checked": 1234,
    "chat_template": NASTY,
    "classes": {"trained": NASTY, "other": NASTY, "renames": {NASTY: NASTY}},
    "base": {"name": NASTY, "fingerprint": NASTY},
    "made_from": [{"name": NASTY, "weight": 0.5, "sha256": NASTY}],
    "files": {NASTY: NASTY},
    "made_with": NASTY,
}


class Read(HTMLParser):
    """Texts by the tags that they stand in."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def test_values_stand_in_the_page_as_they_are_and_change_nothing_of_it() -> None:
    read = Read(certificate_page(CERTIFICATE))
    assert read.open == []
    assert "b" not in read.texts
    assert read.texts["code"] == [NASTY] * 5
    assert read.texts["td"].count(NASTY) == 6
    assert f"Made with {NASTY}." in read.texts["p"]
    assert f"Rounding to {NASTY} cost 1.5% of what the adapter does. Written in float32 nothing is lost." in read.texts["p"]
    assert read.texts["h2"] == ["What was compared", "What was found", "What it was made from", "Files (SHA-256)"]


def test_what_a_certificate_does_not_say_makes_no_line() -> None:
    said = {
        key: value for key, value in CERTIFICATE.items() if key not in ("made_from", "base", "offers_float32", "effect_lost", "update_lost")
    }
    read = Read(certificate_page({**said, "files": {}}))
    assert read.texts["h2"] == ["What was compared", "What was found"]
    assert not any("Rounding" in text for text in read.texts["p"])
