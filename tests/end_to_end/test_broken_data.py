"""A broken file mended on the Data page through the real window off-screen: what a person saw, from opening it to a lit Start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.album import SIZES, THEMES
from tests.end_to_end.broken_data import CUT_LINE, NAME, NULL_LINE, ROWS
from tests.end_to_end.conftest import Driven

pytestmark = pytest.mark.timeout(900)  # the session is driven by the first test that asks for it
PAGES = ("data_broken", "data_columns", "data_bad_rows", "data_cut_row", "data_tokens", "data_lengths", "data_ready")


def test_the_program_ended_by_itself(mended: Driven) -> None:
    assert mended.record.exits == [0]
    assert "Traceback" not in mended.record.errors


def test_the_opened_file_tells_all_that_is_wrong_with_it(mended: Driven) -> None:
    seen = mended.record.seen["opened"]
    assert seen["files"][0][:5] == [NAME, "0", str(ROWS), "no row says how", "latin-1, not utf-8"]
    assert list(seen["problems"]) == ["bad_rows", "columns", "encoding"]


def test_the_encoding_is_taken_by_one_press(mended: Driven) -> None:
    seen = mended.record.seen["encoding"]
    assert seen["files"][0][4] == "latin-1"
    assert "encoding" not in seen["problems"]


def test_the_suggested_columns_make_the_rows_readable(mended: Driven) -> None:
    seen = mended.record.seen["columns"]
    assert seen["offered"] == "Use prompt = Question, completion = Best Answer"
    assert seen["preview"].startswith(f"{NAME}:1\nno known keys")
    assert seen["after"].startswith(f"{NAME}:1\n[user]")
    assert (seen["prompt"], seen["completion"]) == ("Question", "Best Answer")
    assert sorted(seen["problems"]) == ["bad_rows", "duplicates"]


def test_what_is_left_of_bad_rows_is_read_line_by_line(mended: Driven) -> None:
    seen = mended.record.seen["bad rows"]
    assert [row[0].split(" ")[0] for row in seen["rows"]] == [f"{NAME}:{CUT_LINE}", f"{NAME}:{NULL_LINE}"]
    assert f"{NAME}:{CUT_LINE}: the JSON is cut off at column" in seen["cut"]
    assert f'"id": {NULL_LINE}' in seen["null"]


def test_a_row_is_found_among_all(mended: Driven) -> None:
    seen = mended.record.seen["search"]
    assert seen["count"] == "1 found"
    assert "serial number" in seen["row"]


def test_the_lens_shows_a_row_cut_before_its_answer_and_one_that_trains(mended: Driven) -> None:
    cut, sound = mended.record.seen["cut row"], mended.record.seen["sound row"]
    assert cut["trained"] == "trained 0"
    assert cut["cut"] != "cut off 0"
    assert "<|im_start|>" in cut["first"]
    assert " trained, " in sound["lens"]
    assert sound["read_out"].split(" · ")[-1] in ("trained", "context")


def test_max_length_is_moved_by_keys_taken_back_and_set_by_its_cure(mended: Driven) -> None:
    seen = mended.record.seen["lengths"]
    assert seen["cut"].startswith("1 ")
    assert int(seen["moved"].replace(",", "")) > 256
    assert int(seen["max_length"].replace(",", "")) % 64 == 0


def test_the_rows_are_clean_and_start_is_lit(mended: Driven) -> None:
    seen = mended.record.seen["ready"]
    assert seen["start"] == "Start"
    assert seen["data"].endswith(f"{ROWS - 2} rows · 2 bad")
    assert set(seen["problems"]) <= {"duplicates"}


def test_the_pictures_show_every_stage_in_all_sizes_and_nothing_clipped(mended: Driven) -> None:
    names = {Path(picture.path).stem for picture in mended.record.pictures}
    assert names == {f"{page}_{theme}_{width}x{height}" for page in PAGES for theme in THEMES for width, height in SIZES}
    assert {picture.path: picture.clipped for picture in mended.record.pictures if picture.clipped} == {}
