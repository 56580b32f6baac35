"""Asks for the tokens of one row, as often as the row, the draft's data or the model change; only the last answer counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.events import LastEvent, RunFailed, RunFinished
from lora_studio.data.rows.row import Row
from lora_studio.gui.data_page.lens.lens_tokens import LensTokens
from lora_studio.gui.engine.latest_job import LatestJob
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.jobs.spec import JobSpec

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

LENS_TASK = "lora_studio.data.tokens.lens:lens"
_ASK_AFTER_MS = 120  # walking through rows with the arrow keys tokenizes those one rests at


class LensReader(QObject):
    """Reads the tokens of a row.

    Attributes:
        tokens: Those of the row asked for; None until they are known.
        note: What is waited for, or why there are none; of a row that is trained in several, how much they train together.
        answer: Of which of its answers, counted from 0.
        answers: In how many rows it is trained: with `data.train_on: each` one for each of its answers.

    Signals:
        changed: Something of that may be another.
    """

    changed = Signal()

    def __init__(self, workspace: Workspace, jobs: JobCenter, parent: QObject) -> None:
        super().__init__(parent)
        self.setObjectName("lens_reader")
        self._workspace = workspace
        self._row: Row | None = None
        self._wanted = False
        self._asked: object = None
        self._stopped = False
        self._job = LatestJob(jobs)
        self.tokens: LensTokens | None = None
        self.note = ""
        self._parts: list[dict[str, Any]] = []
        self.answer = 0
        self._timer = QTimer(self, singleShot=True, interval=_ASK_AFTER_MS)
        self._timer.timeout.connect(self._ask)
        workspace.draft.config_changed.connect(self._look)
        workspace.model.changed.connect(self._look)
        self._look()

    def read(self, row: Row | None) -> None:
        """Read another row, or none."""
        if row != self._row:
            self.answer = 0
        if self._stopped:
            self._asked = None  # what somebody stopped is begun anew when a person selects a row, and not by itself
        self._row = row
        self._look()

    @property
    def answers(self) -> int:
        """See the class."""
        return max(1, len(self._parts))

    def choose(self, answer: int) -> None:
        """Show the tokens of the row that ends with another answer, counted from 0."""
        self.answer = answer
        if self._parts:
            self._show_part()

    def set_wanted(self, wanted: bool) -> None:
        """Say whether anyone looks: tokens nobody looks at are not made."""
        self._wanted = wanted
        self._look()

    def _look(self) -> None:
        if not self._wanted:
            return
        waits = self._waits_for()
        if waits:
            self._parts = []
            self._show(None, waits)
            self._asked = None
        elif self._key != self._asked:
            self._timer.start()

    @property
    def _key(self) -> object:
        config = self._workspace.draft.config
        return (self._row, config.data, config.model.name_or_path, config.model.revision, config.training.per_device_train_batch_size)

    def _waits_for(self) -> str:
        model = self._workspace.model
        if self._row is None:
            return tr("Select a sound row to see its tokens.")
        if not model.engine:
            return tr("Tokens are shown when the engine is loaded.")
        return "" if model.source and model.source.ready else tr("Tokens are shown when the base model is ready.")

    def _ask(self) -> None:
        row, config, model = self._row, self._workspace.draft.config, self._workspace.model
        if row is None or self._waits_for() or model.source is None:
            return
        self._asked, self._stopped = self._key, False
        arguments: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "model_folder": str(model.source.path),
            "rows": [row.to_json()],
        }
        self._show(self.tokens, tr("reading the tokens…"))
        self._job.start(JobSpec(LENS_TASK, arguments, title=tr("Read the tokens of a row")), self._on_done)

    def _on_done(self, last: LastEvent) -> None:
        if isinstance(last, RunFinished):
            self._parts = last.result["rows"]
            self._show_part()
        elif isinstance(last, RunFailed):
            self._parts = []
            self._show(None, f"{last.message} {last.hint}".strip())
        else:
            self._parts, self._stopped = [], True
            self._show(None, tr("The reading was stopped. Select the row again to see its tokens."))

    def _show_part(self) -> None:
        seen = self._parts[min(self.answer, len(self._parts) - 1)]
        self.tokens, self.note = (None, str(seen["error"])) if "error" in seen else (tokens_of(seen), self._together())
        self.changed.emit()

    def _together(self) -> str:
        """Say what a row trains that is trained in several."""
        if len(self._parts) < 2:
            return ""
        trained = sum(int(part.get("trained", 0)) for part in self._parts)
        return tr(
            "Each answer is trained in a row of its own: {trained} tokens in {count} rows.",
            trained=format_count(trained),
            count=format_count(len(self._parts)),
        )

    def _show(self, tokens: LensTokens | None, note: str) -> None:
        if tokens is not self.tokens or note != self.note:
            self.tokens, self.note = tokens, note
            self.changed.emit()


def tokens_of(result: dict[str, Any]) -> LensTokens:
    """Read a row of the task's answer."""
    return LensTokens(tuple(result["ids"]), tuple(result["texts"]), tuple(result["states"]))
