"""From a broken file to clean rows ready to start, done by a `Person` on the Data page with mouse and keyboard; what was seen is kept.

The test asks what was seen; `storyboard.py --only data` photographs it on an X server.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.end_to_end.album import SIZES, Album
from tests.end_to_end.first_session import BEFORE_SECONDS, Record, Snap, no_snap
from tests.end_to_end.person import Person

NAME = "broken.jsonl"
ROWS = 40
CUT_LINE, LATIN_LINE, NULL_LINE, TWICE_LINE, LONG_LINE = 4, 8, 13, 21, 30
_NEEDLE = "serial number"


def write_broken(folder: Path) -> Path:
    """Write a file as people have them: keys nobody knows, a line cut off, one in latin-1, an answer that is null, a row twice."""
    lines = [_line(number).encode() for number in range(1, ROWS + 1)]
    lines[CUT_LINE - 1] = lines[CUT_LINE - 1][:48]
    lines[LATIN_LINE - 1] = _line(LATIN_LINE, "Où est le numéro de série du caméscope ?").encode("latin-1")
    lines[NULL_LINE - 1] = _line(NULL_LINE, answer=None).encode()
    lines[TWICE_LINE - 1] = lines[TWICE_LINE - 2]
    long = f"My {_NEEDLE} is worn off. " + "I have read the manual from its first page to its last. " * 60
    lines[LONG_LINE - 1] = _line(LONG_LINE, long).encode()
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def _line(number: int, question: str = "", answer: str | None = "") -> str:
    asked = question or f"How do I reset device {number}, and what do I lose?"
    said = answer if answer != "" else f"Hold its button for {number} seconds. Settings are lost, recordings stay."
    return json.dumps({"id": number, "Question": asked, "Best Answer": said}, ensure_ascii=False)


class BrokenData:
    """Stages of mending; each notes what it saw.

    Args:
        home: The program's home.
        record: Where to note it.
        album: Takes pictures in all sizes; None for none.
        snap: Photographs a stage (its number, a name).
    """

    def __init__(self, home: Path, record: Record, album: Album | None = None, snap: Snap = no_snap) -> None:
        self._file = write_broken(home / "files")
        self.record = record
        self._album = album
        self._snap = snap

    def mend(self, me: Person) -> None:
        """From opening the file to a lit Start."""
        self._open(me)
        self._take_encoding(me)
        self._map_columns(me)
        self._look_at_bad_rows(me)
        self._find_a_row(me)
        self._look_at_tokens(me)
        self._mend_lengths(me)
        self._ready(me)
        me.press("ctrl+q")
        self.record.exits.append(me.program.wait_for_end())
        self.record.errors += me.program.errors

    def _open(self, me: Person) -> None:
        me.wait_for("page_tabs", 120)
        me.wait("the pages", lambda: me.program.see("program")["page"])
        me.press("ctrl+1")
        me.wait("the Data page", lambda: me.program.see("program")["page"] == "data")
        me.click_cell("files_table", 0)
        me.press("Delete")
        me.wait_for("files_empty")
        self._snap("01", "no_files")
        me.click("add_files_button")
        me.wait_for("fileNameEdit")
        me.hands.write(str(self._file))
        me.press("Return")
        me.wait("problems", lambda: me.text("problem_columns_text"))
        self._note(me, "opened", {"files": me.program.see("table", "files_table")})
        self._snap("02", "broken_file")
        self._pictures(me, "data_broken")

    def _take_encoding(self, me: Person) -> None:
        me.click("problem_encoding_action")
        me.wait("the offer to go", lambda: not me.look("problem_encoding"))
        self._note(me, "encoding", {"files": me.program.see("table", "files_table")})
        self._snap("03", "encoding_taken")

    def _map_columns(self, me: Person) -> None:
        offered = me.text("problem_columns_action")
        me.program.see("reveal", "columns_card")
        before = {"suggestion": me.text("columns_suggestion"), "preview": me.text("columns_preview")}
        self._snap("04", "columns_not_known")
        me.click("use_suggestion_button")
        me.wait("rows that read", lambda: "[user]" in me.text("columns_preview"))
        self._note(
            me,
            "columns",
            {
                "offered": offered,
                **before,
                "after": me.text("columns_preview"),
                "prompt": me.text("column_prompt"),
                "completion": me.text("column_completion"),
            },
        )
        self._snap("05", "columns_mapped")
        self._pictures(me, "data_columns", show="columns_card")

    def _look_at_bad_rows(self, me: Person) -> None:
        me.program.see("reveal", "rows_card")
        me.click("rows_switch_bad")
        first = me.click_cell("bad_rows_list", 0)
        me.wait("the raw line", lambda: NAME in me.text("row_detail"))
        cut = me.text("row_detail")
        me.press("Down")
        me.wait("the next line", lambda: me.text("row_detail") != cut)
        self._note(
            me, "bad rows", {"first": first, "cut": cut, "null": me.text("row_detail"), "rows": me.program.see("table", "bad_rows_list")}
        )
        me.press("Up")
        me.wait("the first line", lambda: me.text("row_detail") == cut)
        self._snap("06", "bad_row_with_its_spot")
        self._pictures(me, "data_bad_rows", show="rows_card")
        me.click("on_bad_rows_switch_skip")
        me.wait("bad rows to be left out", lambda: not me.look("problem_bad_rows"))
        me.press("ctrl+z")
        me.wait("undo", lambda: me.look("problem_bad_rows"))
        me.program.see("reveal", "problems")
        me.click("problem_bad_rows_action")
        me.wait("bad rows to be left out", lambda: not me.look("problem_bad_rows"))
        self._snap("07", "bad_rows_left_out")

    def _find_a_row(self, me: Person) -> None:
        me.program.see("reveal", "rows_card")
        me.press("ctrl+f")
        me.wait_for("rows_search")
        me.hands.write(_NEEDLE)
        me.press("Return")
        me.wait("the row", lambda: _NEEDLE in me.text("row_detail"))
        count = me.wait("the count", lambda: "found" in (told := me.text("search_count")) and told)
        self._snap("08", "row_found")
        self._note(me, "search", {"count": count, "row": me.text("row_detail")[:80]})
        me.press("Escape")
        me.wait("the search to end", lambda: not me.look("rows_search"))

    def _look_at_tokens(self, me: Person) -> None:
        me.wait("the engine", lambda: (found := me.look("start_button")) and found["enabled"], BEFORE_SECONDS)
        me.program.see("reveal", "rows_card")
        me.click("detail_switch_tokens")
        me.wait("tokens", lambda: "tokens:" in me.text("lens_view"), BEFORE_SECONDS)
        me.click("lens_view")
        me.press("ctrl+Home")
        first = me.wait("the first token", lambda: "token 1 of" in (told := me.text("lens_read_out")) and told)
        self._pictures(me, "data_cut_row", show="rows_card")
        self._snap("09", "a_row_cut_before_its_answer")
        self._note(
            me,
            "cut row",
            {"lens": me.text("lens_view"), "first": first, "trained": me.text("legend_trained"), "cut": me.text("legend_cut")},
        )
        self._rest_on_a_sound_row(me)

    def _rest_on_a_sound_row(self, me: Person) -> None:
        told = me.text("lens_view")
        me.click_cell("rows_table", 0)
        me.wait("other tokens", lambda: "tokens:" in (now := me.text("lens_view")) and now != told, BEFORE_SECONDS)
        me.click("lens_view")
        me.press("Right")
        self._note(me, "sound row", {"lens": me.text("lens_view"), "read_out": me.text("lens_read_out")})
        self._snap("10", "tokens_of_a_row")
        self._pictures(me, "data_tokens", show="rows_card")

    def _mend_lengths(self, me: Person) -> None:
        me.wait("rows that are cut", lambda: me.look("problem_cut"), BEFORE_SECONDS)
        me.program.see("reveal", "tokens_card")
        cut = me.text("figure_rows_cut")
        self._snap("11", "lengths")
        self._pictures(me, "data_lengths", show="tokens_card")
        me.click("length_histogram")
        me.press("End")
        me.wait("no row to be cut", lambda: me.text("figure_rows_cut").startswith("0 "))
        moved = me.text("edit_data_max_length")
        self._snap("12", "line_moved")
        me.press("ctrl+z")
        me.wait("undo", lambda: not me.text("figure_rows_cut").startswith("0 "))
        me.press("ctrl+z")
        me.wait("undo of the click", lambda: me.text("figure_rows_cut") == cut)
        me.wait("the banner", lambda: me.look("problem_cut"), BEFORE_SECONDS)
        me.program.see("reveal", "problems")
        me.click("problem_cut_action")
        me.wait("no row to be cut", lambda: not me.look("problem_cut"), BEFORE_SECONDS)
        self._note(me, "lengths", {"cut": cut, "moved": moved, "max_length": me.text("edit_data_max_length")})

    def _ready(self, me: Person) -> None:
        me.wait("Start to be lit", lambda: (found := me.look("start_button")) and found["enabled"], BEFORE_SECONDS)
        me.wait("the rows to be counted anew", lambda: not me.look("problem_untrained"), BEFORE_SECONDS)
        me.program.see("reveal", "files_card")
        self._note(me, "ready", {"start": me.text("start_button"), "data": me.text("data_panel/card_note")})
        self._snap("13", "ready")
        self._pictures(me, "data_ready")

    def _note(self, me: Person, stage: str, seen: dict[str, Any]) -> None:
        names = [name for name in me.program.see("names") if name.startswith("problem_") and name.endswith("_text")]
        told = {name.removeprefix("problem_").removesuffix("_text"): me.text(name) for name in names}
        self.record.seen[stage] = {"problems": told, **seen}

    def _pictures(self, me: Person, page: str, show: str = "files_card") -> None:
        if self._album is not None:
            me.wait_until_still("figure_rows_cut", looks=10)  # it follows the counted tokens
            self._album.take(me.program, page, show=show, sizes=SIZES)
            self.record.pictures = self._album.pictures
            me.program.see("reveal", show)
