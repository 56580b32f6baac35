"""`Studio` puts the window together: the draft, the jobs, the shown run, panels, pages, and what the actions do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QMenu

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.world import launch_command
from lora_studio.gui.draft.draft_store import Announcement
from lora_studio.gui.draft.workspace import open_workspace
from lora_studio.gui.engine.engine_loader import EngineLoader
from lora_studio.gui.engine.job_center import HostName, JobCenter
from lora_studio.gui.engine.notifications import Notification, Notifications
from lora_studio.gui.export.adapter_import import AdapterImport
from lora_studio.gui.panels import AdapterPanel, BudgetPanel, DataPanel, ModelPanel, TargetsPanel, TrainingPanel
from lora_studio.gui.platform.file_dialogs import FileDialogs
from lora_studio.gui.platform.path_kinds import PathKind, is_model_name, kind_of
from lora_studio.gui.platform.text import tr
from lora_studio.gui.runs.run_control import RunControl
from lora_studio.gui.runs.run_news import RunNews
from lora_studio.gui.runs.run_queue import RunQueue
from lora_studio.gui.runs.shown_run import ShownRun
from lora_studio.gui.shell.close_guard import Closing
from lora_studio.gui.shell.main_window import MainWindow
from lora_studio.gui.shell.status_feed import StatusFeed
from lora_studio.gui.shell.yaml_view import YamlDialog
from lora_studio.gui.widgets import NumberEdit

_CONFIG_FILTER = "Configs (*.yaml *.yml)"


class Studio(QObject):
    """Everything behind a window that has painted.

    Signals:
        filled: Panels show the draft.
        plots_ready: The pages are there, their plots made.

    Attributes:
        workspace: The draft.
        jobs: What runs.
        run_view: The run that is shown.
        starter: Makes runs of the draft.
        adapter_import: Takes in adapters made elsewhere.
        queue: The jobs that wait for the device.
    """

    filled = Signal()
    plots_ready = Signal()

    def __init__(self, window: MainWindow, asker: FileDialogs | None = None) -> None:
        super().__init__(window)
        self.setObjectName("studio")
        self._window = window
        self._asker = asker or FileDialogs()
        self._closed = False
        self._told_error = ""
        self.jobs = JobCenter(self)
        self.workspace = open_workspace(self.jobs, self)
        self.run_view = ShownRun(self.jobs, self)
        self.starter = RunControl(self.workspace, self.jobs, self.run_view, self)
        self.starter.set_host("process" if window.state.host == "process" else "thread")
        self.queue = RunQueue(self.jobs, self.starter, self)
        self.engine = EngineLoader(self.jobs, self)
        self.notifications = Notifications(self.jobs, self)
        self.news = RunNews(self.notifications, self.starter, self.queue, self.run_view, self._show_run, self._show_errors, self)
        self.adapter_import = AdapterImport(window, self.jobs, self.notifications, self._asker, self)
        self.status = StatusFeed(window, self.workspace, self.jobs, self.run_view, self.engine)
        self._closing = Closing(window, self.jobs, self.starter)
        self._build_panels()
        self._connect()
        self._attach_actions()
        self._show_draft()
        self._show_readiness()
        self._show_start()
        QTimer.singleShot(0, self, self.filled.emit)

    def make_pages(self) -> None:
        """Make the pages and their plots; pyqtgraph is imported here."""
        from lora_studio.gui.data_page.page import DataPage
        from lora_studio.gui.runs_page.page import RunsPage
        from lora_studio.gui.train_page.page import TrainPage

        window, shared = self._window, (self.workspace, self.jobs, self.run_view)
        self.train_page = TrainPage(*shared, self.starter, self._asker)
        self.adapter_import.export_asked.connect(self.train_page.export_adapter)
        self.runs_page = RunsPage(*shared, self.starter, self.queue, self._asker)
        self.data_page = DataPage(*shared, self._asker)
        window.remove_page_placeholder()
        for identity, title, page in (
            ("data", tr("Data"), self.data_page),
            ("train", tr("Train"), self.train_page),
            ("runs", tr("Runs"), self.runs_page),
        ):
            window.add_page(identity, title, page)
        self.runs_page.run_opened.connect(lambda: window.show_page("train"))
        self.starter.run_added.connect(lambda _path: window.show_page("train"))
        self.workspace.plan.changed.connect(self._show_estimate)
        self.train_page.curves.make_plots()
        self._show_estimate()
        self._reopen_run()
        self.plots_ready.emit()
        QTimer.singleShot(0, self, self._find_runs)

    def begin(self) -> None:
        """Let the engine load and what needs it start."""
        self.engine.start()
        self.workspace.model.begin()

    def open_paths(self, paths: Sequence[str]) -> None:
        """Open what was dropped or named: a config, a run, a model, or rows; an adapter on its own is imported."""
        rows: list[str] = []
        for entry in paths:
            self._show_errors(lambda entry=entry: self._open_named(entry, rows))
        if rows:
            errors = self.workspace.draft.edit({"data.train": tuple(rows)}, tr("Open data"))
            for message in errors.values():
                self.workspace.draft.tell("error", message)
            self._window.show_page("data")

    def close(self) -> None:
        """Save the draft and the window's look, stop and join what runs."""
        if self._closed:
            return
        self._closed = True
        self.workspace.draft.close()
        state = self._window.remember()
        state.run = str(self.run_view.path or "")
        state.queue, state.host = self.queue.run_folders, self.starter.host
        try:
            state.save()
        finally:
            self.jobs.close()

    def _open_named(self, entry: str, rows: list[str]) -> None:
        path = Path(entry).expanduser()
        if path.exists() or not is_model_name(entry):
            self._open(path, rows)
        else:
            self._change_model(entry)

    def _change_model(self, name_or_path: str) -> None:
        errors = self.workspace.model.choose(name_or_path)
        if errors:
            raise InputError(next(iter(errors.values())))

    def _open(self, path: Path, rows: list[str]) -> None:
        match kind_of(path):
            case PathKind.CONFIG:
                self._open_config(path)
            case PathKind.RUN:
                self._show_run(path if (path / "run.yaml").is_file() else path.parent)
            case PathKind.MODEL:
                self._change_model(str(path.resolve()))
            case PathKind.DATA:
                rows.append(str(path.resolve()))
            case PathKind.ADAPTER:
                self.adapter_import.start(path.resolve())

    def _show_run(self, path: Path) -> None:
        self.run_view.open(path)
        self._window.show_page("train")

    def _open_config(self, path: Path) -> None:
        """Make a file the draft; one that cannot be read opens in the editor, at the line."""
        try:
            self.workspace.draft.open(path)
        except InputError as error:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise error from None
            self._show_yaml(text, path)

    def _build_panels(self) -> None:
        window, shared = self._window, (self.workspace, self.jobs)
        window.remove_placeholders()
        self.budget = BudgetPanel(*shared)
        self.right_panels = (AdapterPanel(*shared), TrainingPanel(*shared), self.budget)
        left = (ModelPanel(*shared, self._asker), DataPanel(*shared, self._asker), TargetsPanel(*shared))
        for identity, panel, stretch in zip(("model", "data", "targets"), left, (0, 0, 1), strict=True):
            window.columns.left.add_card(identity, panel, stretch)
        for identity, panel in zip(("adapter", "training", "budget"), self.right_panels, strict=True):
            window.columns.right.add_card(identity, panel)

    def _connect(self) -> None:
        window, workspace = self._window, self.workspace
        workspace.draft.config_changed.connect(self._show_draft)
        workspace.draft.saved_changed.connect(self._show_saved)
        workspace.readiness.changed.connect(self._show_readiness)
        workspace.plan.changed.connect(self._show_budget)
        workspace.draft.notice.connect(self._on_notice)
        workspace.draft.field_requested.connect(self._reveal_field)
        workspace.draft.files_changed.connect(self._fill_recent)
        self.starter.changed.connect(self._show_start)
        self.run_view.changed.connect(self._on_run)
        self.notifications.added.connect(self._on_notification)
        window.header.name.editingFinished.connect(self._rename)
        window.header.ready.pressed.connect(workspace.draft.request_field)
        window.header.start.clicked.connect(self._start)
        window.view_switch.selected.connect(self._show_side)
        window.reset_button.clicked.connect(self._reset_to_run)
        window.dropped.connect(self.open_paths)
        window.may_close = self._closing.may_close
        self._closing.handing_over.connect(self.notifications.keep_quiet)
        window.closing = self.close
        workspace.draft.undo_stack.canUndoChanged.connect(window.actions_["undo"].setEnabled)
        workspace.draft.undo_stack.canRedoChanged.connect(window.actions_["redo"].setEnabled)

    def _attach_actions(self) -> None:
        handlers: dict[str, Callable[[], object]] = {
            "new": self.workspace.draft.new,
            "open": self._ask_config,
            "open_starter": self.workspace.draft.open_starter,
            "open_run": self._ask_run,
            "import_adapter": self.adapter_import.ask,
            "export_adapter": self.adapter_import.ask_export,
            "save": self._save,
            "save_as": self._save_as,
            "yaml": self._show_yaml,
            "copy_command": self._copy_command,
            "undo": self.workspace.draft.undo_stack.undo,
            "redo": self.workspace.draft.undo_stack.redo,
            "reset_to_run": self._reset_to_run,
            "start": self._start,
            "pause": self._pause,
            "stop": self.starter.stop,
            "queue": self._show_queue,
            "checkpoint_now": self._checkpoint_now,
            "sample_now": self._sample_now,
            "host_thread": lambda: self._choose_host("thread"),
            "host_process": lambda: self._choose_host("process"),
            "export": lambda: self.train_page.export("adapter"),
            "merge": lambda: self.train_page.export("merged"),
        }
        for identity, handler in handlers.items():
            self._window.actions_.on(identity, handler)
        self._recent = QMenu(tr("Open recent"), self._window)
        self._recent.setObjectName("menu_recent")
        self._window.actions_.insert_menu("File", self._recent, before="open_starter")
        self._fill_recent()
        stack = self.workspace.draft.undo_stack
        for identity, possible in (("undo", stack.canUndo()), ("redo", stack.canRedo())):
            self._window.actions_[identity].setEnabled(possible)
        self._on_run()

    # --- showing ---

    def _show_draft(self) -> None:
        name = self._window.header.name
        if not (name.hasFocus() and name.isModified()):
            name.setText(self.workspace.draft.config.name)
        name.set_error("")
        self._show_saved()

    def _show_saved(self) -> None:
        error = self.workspace.draft.files.error
        told = tr("draft · not saved") if error else tr("draft · saved") if self.workspace.draft.saved else tr("draft · saving…")
        self._window.header.saved.setText(told)
        self._window.header.saved.setToolTip(error)
        if error and error != self._told_error:
            self._window.toasts.show("error", error)
        self._told_error = error

    def _show_readiness(self) -> None:
        self._window.header.ready.set_items(self.workspace.readiness.items)
        self._show_start()

    def _show_budget(self) -> None:
        self._window.header.budget.setText(self.budget.summary)

    def _show_start(self) -> None:
        state = self.starter.start_state
        self._window.header.set_start(state.text, state.tooltip, state.enabled)
        self._window.actions_["start"].setText(state.text)
        for host in ("thread", "process"):
            self._window.actions_[f"host_{host}"].setChecked(self.starter.host == host)

    def _show_estimate(self) -> None:
        plan = self.workspace.plan.plan
        self.train_page.curves.set_estimate(plan.memory.peak_bytes if plan else None)

    def _on_run(self) -> None:
        """Follow the run that is shown: the switch, what can be done with it, and what the panels compare with."""
        config, window = self.run_view.config, self._window
        window.view_switch.button("run").setEnabled(config is not None)
        if config is None and window.view_switch.current == "run":
            window.view_switch.set_current("draft")
        window.actions_["reset_to_run"].setEnabled(config is not None)
        live = self.run_view.is_live
        answers = live and config is not None and config.training.sample_rows > 0
        for identity, possible in (("pause", live), ("stop", live), ("checkpoint_now", live), ("sample_now", answers)):
            window.actions_[identity].setEnabled(possible)
        for identity in ("export", "merge"):
            window.actions_[identity].setEnabled(self.run_view.has_weights)
        self._show_side(window.view_switch.current or "draft")

    def _show_side(self, which: str) -> None:
        config = self.run_view.config
        self._window.reset_button.setVisible(config is not None)
        for panel in self.right_panels:
            panel.compare_with(config if which == "draft" else None)
            panel.show_config(config if which == "run" else None)

    def _reveal_field(self, path: str) -> None:
        """Open the side that holds a field; its panel puts the cursor there."""
        section = path.split(".")[0]
        targets = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern")
        identity = "targets" if path.removeprefix("adapter.") in targets else section
        columns = self._window.columns
        (columns.right if identity in ("adapter", "training", "budget") else columns.left).open_at(identity)

    def _on_notice(self, notice: Announcement) -> None:
        self._window.toasts.show(notice.level, notice.text)

    def _on_notification(self, notification: Notification) -> None:
        toast = self._window.toasts.show(notification.level, notification.text, notification.action_text)
        if notification.action is not None:
            toast.action_clicked.connect(notification.action)

    # --- doing ---

    def _start(self) -> None:
        focused = self._window.focusWidget()
        if isinstance(focused, NumberEdit) and not focused.commit():
            return
        state = self.starter.start_state
        if state.enabled:
            self._show_errors(self.starter.start_run)
        else:
            self.workspace.draft.request_field(next((item.field for item in self.workspace.readiness.items if not item.ok), ""))

    def _choose_host(self, host: HostName) -> None:
        self.starter.set_host(host)
        self._show_start()

    def _show_queue(self) -> None:
        self._window.show_page("runs")
        self.runs_page.focus_queue()

    def _pause(self) -> None:
        (self.starter.go_on if self.run_view.is_pause_asked else self.starter.pause)()

    def _checkpoint_now(self) -> None:
        self.starter.checkpoint_now()
        self._window.toasts.show("info", tr("{run} saves a checkpoint after the step under way.", run=self.run_view.name))

    def _sample_now(self) -> None:
        self.starter.sample_now()
        self._window.toasts.show("info", tr("{run} answers its held-out prompts after the step under way.", run=self.run_view.name))

    def _rename(self) -> None:
        name = self._window.header.name
        errors = self.workspace.draft.edit({"name": name.text().strip()}, tr("Rename"))
        name.setModified(False)
        name.set_error("\n".join(errors.values()))

    def _reset_to_run(self) -> None:
        if self.run_view.config is not None:
            self.workspace.draft.take_over(self.run_view.config, tr("Reset to {name}", name=self.run_view.name), self.workspace.draft.path)

    def _ask_config(self) -> None:
        path = self._asker.open_file(self._window, tr("Open a config"), Path.cwd(), [_CONFIG_FILTER])
        if path is not None:
            self._show_errors(lambda: self._open_config(path))

    def _ask_run(self) -> None:
        path = self._asker.open_folder(self._window, tr("Open a run's folder"), self.starter.store.root)
        if path is not None:
            self.open_paths([str(path)])

    def _save(self) -> None:
        self._show_errors(lambda: self.workspace.draft.save() or self._save_as())

    def _save_as(self) -> None:
        suggestion = self.workspace.draft.path or Path.cwd() / f"{self.workspace.draft.config.name}.yaml"
        path = self._asker.save_file(self._window, tr("Save the draft"), suggestion, [_CONFIG_FILTER])
        if path is not None:
            self._show_errors(lambda: self.workspace.draft.save_as(path if path.suffix else path.with_suffix(".yaml")))

    def _show_yaml(self, text: str | None = None, path: Path | None = None) -> None:
        YamlDialog(self.workspace, self._window, text, path).show()

    def _copy_command(self) -> None:
        self.workspace.draft.files.flush()
        path = self.workspace.draft.files.draft_path  # its own file may be older than the draft
        QGuiApplication.clipboard().setText(launch_command(path, self.workspace.draft.config.training.num_processes))
        self._window.toasts.show("good", tr("Copied: the command that trains this draft."))

    def _fill_recent(self) -> None:
        self._recent.clear()
        for path in self.workspace.draft.recent:
            self._recent.addAction(str(path), lambda chosen=path: self._show_errors(lambda: self._open_config(chosen)))
        self._recent.setEnabled(bool(self.workspace.draft.recent))

    def _reopen_run(self) -> None:
        """Show the run of last time again, where it is still there."""
        remembered = Path(self._window.state.run)
        if self._window.state.run and self.run_view.config is None and (remembered / "run.yaml").is_file():
            self._show_errors(lambda: self.run_view.open(remembered))

    def _find_runs(self) -> None:
        """See what went on, and what waited, while no window was open."""
        self.news.find_living(self._window.state.run)
        self.news.tell_left_over(self._window.state.queue)

    def _show_errors(self, action: Callable[[], object]) -> None:
        """Do it; an error a person can act on becomes a toast."""
        try:
            action()
        except StudioError as error:
            self._window.toasts.show("error", str(error))
        except OSError as error:
            self._window.toasts.show("error", tr("{path}: {reason}", path=error.filename or "", reason=error.strerror or str(error)))
