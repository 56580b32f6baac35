"""Data: which files, what is in them, and how rows are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtWidgets import QHBoxLayout, QToolButton

from lora_studio.core.config import RunConfig
from lora_studio.core.paths import resources_folder
from lora_studio.gui.forms import FieldSpec
from lora_studio.gui.panels.panel import Panel
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import ComboBox, ElidedLabel, ErrorLabel

if TYPE_CHECKING:
    from lora_studio.gui.draft.data_state import DataState
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

_FILTERS = ("Rows (*.jsonl *.ndjson *.json *.csv *.tsv *.parquet *.txt *.text *.md *.gz *.zst *.zstd)", "All files (*)")
_MORE = (
    "data.format",
    "data.encoding",
    "data.chat_template_kwargs",
    "data.train_on",
    "data.on_unwritten",
    "data.answer_opening",
    "data.packing",
    "data.eval_fraction",
    "data.eval_rows",
    "data.on_bad_rows",
)


class DataPanel(Panel):
    """Chooses the data files and shows what they hold, or what is wrong with them."""

    def __init__(self, workspace: Workspace, jobs: JobCenter, asker: FileDialogs | None = None) -> None:
        super().__init__(tr("Data"), "data_panel", workspace, jobs)
        self._asker = asker or FileDialogs()
        self._seen: list[tuple[str, ...]] = []
        self._build()
        self._choice.activated.connect(self._on_choice)
        self._browse.clicked.connect(self._on_browse)
        workspace.data.changed.connect(self._refresh)
        self.form.shown.connect(self._refresh)
        theme().changed.connect(self._recolor)
        self._refresh()

    def focus_field(self, path: str) -> bool:
        """Put the cursor into a field of the data."""
        if path in ("data.train", "data.eval"):
            self._choice.setFocus()
            return True
        return super().focus_field(path)

    def choose(self, paths: list[Path]) -> None:
        """Make other files the draft's training data."""
        errors = self._workspace.draft.edit({"data.train": tuple(map(str, paths))}, tr("Choose data"))
        self._error.set_error("; ".join(errors.values()))

    def _build(self) -> None:
        spec = FieldSpec.of("data.train")
        self._choice = ComboBox("data_choice")
        self._choice.setToolTip(spec.tooltip)
        self._choice.setAccessibleName(spec.title)
        self._browse = QToolButton()
        self._browse.setObjectName("browse_data")
        self._browse.setAccessibleName(tr("Browse for data"))
        self._browse.setToolTip(tr("Choose files of rows"))
        line = QHBoxLayout()
        line.setSpacing(6)
        line.addWidget(self._choice, 1)
        line.addWidget(self._browse)
        self._facts = ElidedLabel("", "note", "data_facts")
        self._error = ErrorLabel("data_error")
        self.body.addLayout(line)
        self.body.addWidget(self._facts)
        self.body.addWidget(self._error)
        self._add_more(tr("Format, trained tokens, held out…"), _MORE, "data_more")
        self._recolor()

    def _on_choice(self, index: int) -> None:
        self.choose([Path(path) for path in self._seen[index]])

    def _on_browse(self) -> None:
        here = self._workspace.draft.config.data.train
        start = Path(here[0]).parent if here else Path.home()
        chosen = self._asker.open_files(self, tr("Choose files of rows"), start, _FILTERS)
        if chosen:
            self.choose(chosen)

    def _refresh(self) -> None:
        data, config = self._workspace.data, self._workspace.draft.config
        self._list_files(config)
        self.set_note(check_text(data))
        self._facts.setText(report_text(data, config))
        self._error.set_error(fault_text(data, config))

    def _list_files(self, config: RunConfig) -> None:
        """List the files chosen so far in this session, and the starter's."""
        starter = (str(resources_folder() / "starter" / "support_triage.jsonl"),)
        for entry in (starter, config.data.train):
            if entry and entry not in self._seen and all(Path(path).exists() for path in entry):
                self._seen.append(entry)
        shown = [*self._seen, *([config.data.train] if config.data.train and config.data.train not in self._seen else [])]
        self._choice.blockSignals(True)
        self._choice.clear()
        for entry in shown:
            self._choice.addItem(" + ".join(Path(path).name for path in entry))
            self._choice.setItemData(self._choice.count() - 1, "\n".join(entry), 3)  # Qt.ToolTipRole
        self._choice.setCurrentIndex(shown.index(config.data.train) if config.data.train else -1)
        self._choice.setPlaceholderText(tr("Choose a file of rows"))
        self._choice.blockSignals(False)
        self._seen = shown

    def _recolor(self) -> None:
        self._browse.setIcon(icon("folder", colors().muted))


def check_text(data: DataState) -> str:
    """Say what the files hold: messages · 320 rows · 0 bad."""
    check = data.judged
    if check is None:
        return tr("reading…") if data.reading else ""
    rows, bad = format_count(check.rows), format_count(check.bad_count)
    parts = (check.format, tr("{count} rows", count=rows), tr("{count} bad", count=bad))
    return " · ".join(part for part in parts if part)


def report_text(data: DataState, config: RunConfig) -> str:
    """Say how many tokens there are, how many are trained, and what is held out."""
    parts: list[str] = []
    if data.report:
        tokens = data.report["tokens"]
        share = tokens["trained"] / tokens["total"] if tokens["total"] else 0
        parts = [
            tr("{count} tokens", count=format_count(tokens["total"])),
            tr("{share} % trained", share=f"{100 * share:.0f}"),
            tr("longest {count}", count=format_count(tokens["max"])),
        ]
    if data.check is not None and data.check.eval_rows:
        parts.append(tr("{count} rows held out", count=format_count(data.check.eval_rows)))
    elif data.check is not None and config.data.eval_fraction:
        parts.append(tr("{share} % held out", share=f"{100 * config.data.eval_fraction:g}"))
    return " · ".join(parts)


def fault_text(data: DataState, config: RunConfig) -> str:
    """Say what is wrong with the files, naming the first bad row."""
    if data.error:
        return f"{data.error} {data.hint}".strip()
    check = data.judged
    if check is None or not check.bad_rows or config.data.on_bad_rows == "skip":
        return ""
    first = check.bad_rows[0]
    more = check.bad_count - 1
    text = f"{Path(first.file).name}:{first.line}: {first.reason}"
    return tr("{told}, and {more} more bad rows.", told=text, more=more) if more else f"{text}."
