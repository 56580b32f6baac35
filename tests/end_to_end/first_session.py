"""The first session of WINDOW's storyboard, from a first start to the day after, done by a `Person`; what was seen is kept.

The tests ask what was seen; `storyboard.py` photographs it on an X server.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.end_to_end.album import SIZES, Album, Picture
from tests.end_to_end.person import Person

TREE = "target_tree"
LAYER_0 = ("model", "layers", "0", "self_attn")
BEFORE_SECONDS, TRAINING_SECONDS, EXPORT_SECONDS = 300.0, 900.0, 300.0

Snap = Callable[[str, str], None]


def no_snap(_line: str, _name: str) -> None:
    """Take no picture."""


@dataclass
class Record:
    """What was seen, by the step of the session at which it was; `seconds` tells how long each step took."""

    run: str = ""
    merged: str = ""
    adapter: str = ""
    seen: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    errors: str = ""
    pictures: list[Picture] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Record:
        found = json.loads(path.read_text(encoding="utf-8"))
        found["pictures"] = [Picture(**{**entry, "size": tuple(entry["size"])}) for entry in found["pictures"]]
        return cls(**found)


class Session:
    """Steps of the storyboard; each notes what it saw.

    Args:
        home: The program's home.
        record: Where to note it.
        album: Takes pictures of pages in all sizes; None for none.
        snap: Photographs a line of the storyboard (its number, a name).
    """

    def __init__(self, home: Path, record: Record, album: Album | None = None, snap: Snap = no_snap) -> None:
        self._home = home
        self.record = record
        self._album = album
        self._snap = snap
        self._since = time.monotonic()

    # --- a first look, with the engine left out ---

    def first_look(self, me: Person) -> None:
        """Look at a first start that never imports torch, and leave."""
        self._open(me)
        me.wait_for_text("data_panel/card_note", "rows")
        row = me.row(TREE, *LAYER_0)
        self._note(
            "first look",
            {
                "draft": me.text("draft_name"),
                "data": me.text("data_panel/card_note"),
                "row": row["texts"],
                "targets": self._targets(me),
                "heavy": me.program.see("program")["heavy"],
                "cards": [name for name in ("starter_card", "model_card", "data_card") if me.look(name)],
                "start": me.look("start_button"),
            },
        )
        self._pictures(me, "train_before")
        self._leave(me)

    # --- day one ---

    def day_one(self, me: Person) -> None:
        """From the start of the program to a merged model."""
        self._open(me)
        self._snap("02", "starter_draft")
        me.wait_for_text("data_panel/card_note", "rows")
        self._snap("03", "data_and_conversion")
        self._wait_until_ready(me)
        self._untick_and_undo(me)
        self._start(me)
        self._first_steps(me)
        self._edit_meanwhile(me)
        self._end(me)
        self._merge(me)
        self._export(me)
        self._leave(me)
        self._snap("12", "closed")

    def _wait_until_ready(self, me: Person) -> None:
        me.wait("Start to be lit", lambda: (found := me.look("start_button")) and found["enabled"], BEFORE_SECONDS)
        me.wait_for_text("data_facts", "tokens", 120)
        me.wait_until_still("budget_line")  # it follows the counted tokens
        self._note("ready", {"start": me.text("start_button"), "data": me.text("data_panel/card_note"), "facts": me.text("model_facts")})
        self._snap("04", "ready")

    def _untick_and_undo(self, me: Person) -> None:
        before = self._targets(me)
        me.tick(TREE, *LAYER_0)
        me.wait("the budget to follow", lambda: self._targets(me)["budget"] != before["budget"])
        without = self._targets(me)
        self._snap("05a", "layer_0_unticked")
        me.press("ctrl+z")
        me.wait("undo", lambda: self._targets(me)["budget"] == before["budget"])
        self._note("untick", {"before": before, "without": without, "after": self._targets(me)})
        self._snap("05b", "undone")

    def _start(self, me: Person) -> None:
        me.click("start_button")
        me.wait("the run bar", lambda: me.text("run_name"))
        self.record.run = str(self._home / "runs" / me.text("run_name"))
        loading = {"state": me.text("run_state"), "doing": me.text("run_doing"), "settings": me.text("run_settings")}
        self._snap("06a", "started")
        me.wait("answers before the run", lambda: me.text("before_4"), BEFORE_SECONDS)
        self._note("before samples", {**loading, "answers": [me.text(f"before_{number}") for number in range(5)]})
        me.program.see("reveal", "before_after_card")
        self._snap("06b", "before_answers")
        me.program.see("reveal", "tiles_card")

    def _first_steps(self, me: Person) -> None:
        me.wait("the first loss", lambda: me.text("tile_loss") not in ("", "–"), BEFORE_SECONDS)
        self._note("first loss", {"loss": me.text("tile_loss"), "step": me.text("tile_step")})
        me.click("pause_button")
        pausing = me.wait("word of the pause", lambda: me.text("run_doing") or me.text("run_state") == "Paused")
        self._snap("07a", "pausing")
        me.wait_for_text("run_state", "Paused", 120)
        paused = {"word": pausing if isinstance(pausing, str) else "", "state": me.text("run_state"), "button": me.text("pause_button")}
        me.press("ctrl+q")
        me.wait("the question before closing", lambda: me.program.see("buttons", "closing_question"))
        self._snap("12a", "closing_asks")
        paused["question"] = [button["text"].replace("&", "") for button in me.program.see("buttons", "closing_question")]
        me.click_button("closing_question", "Cancel")
        me.wait("the question to go", lambda: not me.look("closing_question"))
        me.click("pause_button")
        me.wait_for_text("run_state", "Running", 120)
        self._note("pause", paused)

    def _edit_meanwhile(self, me: Person) -> None:
        me.type_into("edit_adapter_r", "16")
        me.wait_for_text("draft_differs", "differs")
        self._note(
            "edit meanwhile",
            {
                "differs": me.text("draft_differs"),
                "settings": me.text("run_settings"),
                "start": me.text("start_button"),
                "draft_r": me.text("edit_adapter_r"),
                "run_yaml": (Path(self.record.run) / "run.yaml").read_text(encoding="utf-8"),
            },
        )
        self._snap("08", "draft_differs")
        me.wait("ten steps", lambda: int(me.text("tile_step").split(" ")[0].replace(",", "") or 0) >= 10, TRAINING_SECONDS)
        self._pictures(me, "train_running", sizes=1)

    def _end(self, me: Person) -> None:
        me.wait("the run to end", lambda: me.text("run_state") not in ("Running", "Loading"), TRAINING_SECONDS)
        me.wait("the end to be told", lambda: me.text("run_banner_text"))
        announced = {
            "state": me.text("run_state"),
            "banner": me.text("run_banner_text"),
            "next": me.text("run_banner_action"),
            "toast": me.text("toast_text"),
            "step": me.text("tile_step"),
            "eval_loss": me.text("tile_eval_loss"),
        }
        self._snap("09a", "finished")
        me.program.see("reveal", "before_after_card")
        self._note(
            "training",
            {
                **announced,
                "share": me.text("before_after_card/card_note"),
                "curves": me.program.see("curves"),
                "after": [me.text(f"after_{number}") for number in range(5)],
                "settings": me.text("run_settings"),
            },
        )
        self._snap("09b", "before_after")
        me.program.see("reveal", "tiles_card")

    def _merge(self, me: Person) -> None:
        me.click("run_banner_action")
        me.wait_for("merge_dialog/begin_button")
        told = ("export_run", "export_base", "export_source", "export_size", "export_place")
        form = {name: me.text(f"merge_dialog/{name}") for name in told}
        self._snap("10a", "merge_form")
        me.click("merge_dialog/begin_button")
        self._snap("10b", "merging")
        me.wait("the certificate", lambda: me.text("export_verdict_text"), EXPORT_SECONDS)
        self._note(
            "merge",
            {
                **form,
                "verdict": me.text("export_verdict_text"),
                "where": me.text("export_where"),
                "lines": me.text("loading_lines"),
                "open": bool(me.look("open_folder_button")),
            },
        )
        self.record.merged = form["export_place"]
        self._snap("11", "certificate")
        self._pictures(me, "merge_certificate", sizes=1)
        me.click("close_button")
        me.wait("the dialog to go", lambda: not me.look("merge_dialog"))

    def _export(self, me: Person) -> None:
        me.click("export_button")
        me.wait_for("export_dialog/begin_button")
        self.record.adapter = me.text("export_place")
        me.click("export_dialog/begin_button")
        me.wait("the certificate", lambda: me.text("export_verdict_text"), EXPORT_SECONDS)
        self._note("export", {"verdict": me.text("export_verdict_text"), "lines": me.text("loading_lines")})
        me.click("close_button")
        me.wait("the dialog to go", lambda: not me.look("export_dialog"))

    # --- the day after ---

    def day_two(self, me: Person) -> None:
        """Come back: the same page and draft, the run from disk, and a new draft from it."""
        self._open(me)
        me.wait("the run of yesterday", lambda: me.text("run_banner_text"))
        self._note(
            "came back",
            {
                "banner": me.text("run_banner_text"),
                "page": me.program.see("program")["page"],
                "draft_r": me.text("edit_adapter_r"),
                "differs": me.text("draft_differs"),
            },
        )
        self._snap("13", "next_day")
        self._look_at_run(me)
        self._look_at_pages(me)
        self._new_run_from_this(me)
        self._leave(me)

    def _look_at_run(self, me: Person) -> None:
        me.press("ctrl+3")
        me.wait("the list of runs", lambda: me.program.see("table", "runs_table"))
        rows = me.program.see("table", "runs_table")
        self._pictures(me, "runs")
        self._snap("14a", "runs")
        self._choose_first_run(me)
        me.press("Return")
        me.wait("the Train page", lambda: me.program.see("program")["page"] == "train")
        me.click("view_switch_run")
        me.wait("the run's own settings", lambda: (found := me.look("edit_adapter_r")) and not found["enabled"])
        me.wait("curves", lambda: me.program.see("curves")["loss_plot"]["train"])
        locked = me.look("edit_adapter_r")
        self._snap("14b", "run_from_disk")
        self._note(
            "reopened",
            {
                "rows": rows,
                "curves": me.program.see("curves"),
                "locked_r": locked,
                "share": me.text("before_after_card/card_note"),
                "loss": me.text("tile_loss"),
                "step": me.text("tile_step"),
                "settings": me.text("run_settings"),
                "heavy": me.program.see("program")["heavy"],
                "can_merge": (me.look("merge_button") or {}).get("enabled"),
            },
        )
        self._pictures(me, "train_finished")
        self._pictures(me, "before_after", show="before_after_card")
        me.click("view_switch_draft")

    def _look_at_pages(self, me: Person) -> None:
        me.press("ctrl+1")
        me.wait("the Data page", lambda: me.program.see("program")["page"] == "data")
        self._pictures(me, "data")
        me.press("ctrl+e")
        me.wait_for("yaml_editor")
        self._note("yaml", {"text": me.text("yaml_editor")})
        self._pictures(me, "yaml", sizes=1)
        me.press("Escape")
        me.wait("the YAML to close", lambda: not me.look("yaml_editor"))

    def _new_run_from_this(self, me: Person) -> None:
        me.press("ctrl+3")
        self._choose_first_run(me)
        before = me.text("edit_adapter_r")
        me.click("run_new_from_button")
        me.wait("the draft to be the run's", lambda: me.text("edit_adapter_r") != before)
        self._note(
            "new run from this",
            {"before": before, "r": me.text("edit_adapter_r"), "name": me.text("draft_name"), "start": me.text("start_button")},
        )
        me.press("ctrl+2")
        me.wait("the Train page", lambda: me.program.see("program")["page"] == "train")
        self._snap("15", "new_run_from_this")

    def _choose_first_run(self, me: Person) -> None:
        left, top, width, _height = me.wait_for("runs_table")["box"]
        me.hands.click(left + width // 3, top + 45)  # below the table's header
        me.wait_for("run_open_button")

    # --- every day ---

    def _open(self, me: Person) -> None:
        me.wait_for("page_tabs", 120)
        me.wait("the draft", lambda: me.text("draft_name"))
        me.wait("the pages", lambda: me.program.see("program")["page"])
        me.row(TREE, *LAYER_0)

    def _leave(self, me: Person) -> None:
        me.press("ctrl+q")
        self.record.exits.append(me.program.wait_for_end())
        self.record.errors += me.program.errors
        self._note("leave", {})

    def _targets(self, me: Person) -> dict[str, str]:
        return {"note": me.text("targets_panel/card_note"), "trainable": me.text("stat_trainable"), "budget": me.text("budget_line")}

    def _note(self, step: str, seen: dict[str, Any]) -> None:
        now = time.monotonic()
        self.record.seen[step] = seen
        self.record.seconds[step] = round(self.record.seconds.get(step, 0.0) + now - self._since, 1)
        self._since = now

    def _pictures(self, me: Person, page: str, sizes: int = 3, show: str = "") -> None:
        if self._album is not None:
            self._album.take(me.program, page, show=show, sizes=SIZES[:sizes])
            self.record.pictures = self._album.pictures
