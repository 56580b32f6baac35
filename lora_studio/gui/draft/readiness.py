"""What a start needs, item by item: the line above the window, and what a click on it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from lora_studio.data.bad_rows import refused_rows
from lora_studio.data.check import bad_rows_finding
from lora_studio.gui.platform.formatting import format_bytes
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.config import RunConfig
    from lora_studio.core.findings import Finding
    from lora_studio.data.rows.row import BadRow
    from lora_studio.gui.draft.data_state import DataState
    from lora_studio.gui.draft.draft_store import DraftStore
    from lora_studio.gui.draft.model_state import ModelState
    from lora_studio.gui.draft.plan_state import PlanState
    from lora_studio.planning.plan import Plan


@dataclass(frozen=True)
class ReadyItem:
    """One thing a start needs.

    Attributes:
        name: A word or two for the readiness line.
        ok: Whether it is there.
        message: What is missing, or what is there, as a sentence.
        field: Dotted path of the setting to go to.
        pending: Whether it is only waited for.
    """

    name: str
    ok: bool
    message: str = ""
    field: str = ""
    pending: bool = False


class Readiness(QObject):
    """What a start of the draft needs, and whether it is there.

    Attributes:
        items: Model, targets, data, memory, and settings where one does not parse.

    Signals:
        changed: The items are others.
    """

    changed = Signal()

    def __init__(self, draft: DraftStore, model: ModelState, data: DataState, plan: PlanState) -> None:
        super().__init__(draft)
        self._draft = draft
        self._model = model
        self._data = data
        self._plan = plan
        self.items = self._look()
        for source in (model.changed, data.changed, plan.changed, draft.invalid_changed):
            source.connect(self._refresh)

    @property
    def ready(self) -> bool:
        """Whether nothing blocks a start."""
        return all(item.ok for item in self.items)

    def _refresh(self) -> None:
        items = self._look()
        if items != self.items:
            self.items = items
            self.changed.emit()

    def _look(self) -> list[ReadyItem]:
        plan, refused = self._plan.plan, self._plan.base_refused
        items = [_model(self._model, refused), _targets(self._plan, self._model), _data(self._data, self._draft.config), _memory(plan)]
        for finding in _faults(plan):
            if finding == refused:
                continue  # told of the model
            items.append(ReadyItem(tr("settings"), False, f"{finding.message} {finding.hint}".strip(), finding.field))
        for path, message in self._draft.invalid.items():
            items.append(ReadyItem(tr("settings"), False, f"{path}: {message}", path))
        return items


def _faults(plan: Plan | None) -> list[Finding]:
    """Return the plan's errors; those of the targets are told as such."""
    reported = plan.resolution.findings if plan else ()
    return [finding for finding in plan.findings if finding.level == "error" and finding not in reported] if plan else []


def _model(model: ModelState, refused: Finding | None) -> ReadyItem:
    name, field = tr("model"), "model.name_or_path"
    if model.error:
        return ReadyItem(name, False, f"{model.error} {model.hint}".strip(), field)
    if model.job is not None:
        return ReadyItem(name, False, tr("{title}…", title=model.job.spec.title), field, pending=True)
    if model.needs == "download":
        return ReadyItem(name, False, tr("The base model is not on this machine: download it."), field)
    if model.needs == "convert":
        return ReadyItem(name, False, tr("The base model has to be converted first."), field)
    if model.source is None:
        return ReadyItem(name, False, tr("Looking for the base model…"), field, pending=True)
    if refused is not None:
        return ReadyItem(name, False, f"{refused.message} {refused.hint}".strip(), refused.field)
    return ReadyItem(name, True, tr("The base model is ready."), field)


def _targets(plan: PlanState, model: ModelState) -> ReadyItem:
    name, field = tr("targets"), "adapter.target_modules"
    if plan.error:
        return ReadyItem(name, False, f"{plan.error} {plan.hint}".strip(), plan.field or field)
    if plan.resolution is None:
        return ReadyItem(name, False, tr("The modules are not known yet."), field, pending=model.job is not None)
    count = len(plan.resolution.targets)
    if not count:
        return ReadyItem(name, False, tr("No module is ticked: tick at least one in the tree."), field)
    return ReadyItem(name, True, tr("{count} modules get an adapter.", count=count), field)


def _data(data: DataState, config: RunConfig) -> ReadyItem:
    name = tr("data")
    if data.error:
        return ReadyItem(name, False, f"{data.error} {data.hint}".strip(), data.field)
    check = data.check
    if check is None:
        return ReadyItem(name, False, tr("Reading the rows…"), "data.train", pending=True)
    if not check.train_rows:
        return ReadyItem(name, False, tr("The data holds no row to train on."), "data.train")
    if check.bad_rows and config.data.on_bad_rows == "stop":
        return ReadyItem(name, False, tr("{count} bad rows: mend them, or skip bad rows.", count=check.bad_count), "data.on_bad_rows")
    if refused := refused_rows(check, data.report):
        return _refused(refused, config.data.on_bad_rows)
    return ReadyItem(name, True, tr("{count} rows.", count=check.rows), "data.train")


def _refused(rows: tuple[BadRow, ...], on_bad_rows: str) -> ReadyItem:
    """Name the first of the rows that the chat template refuses, which stop a run unless bad rows are skipped."""
    detected = bad_rows_finding(rows[:1], on_bad_rows, len(rows))
    assert detected is not None
    return ReadyItem(tr("data"), detected.level != "error", f"{detected.message} {detected.hint}", detected.field)


def _memory(plan: Plan | None) -> ReadyItem:
    name, field = tr("fits memory"), "training.per_device_train_batch_size"
    if plan is None:
        return ReadyItem(name, False, tr("Memory is told when the modules are known."), field, pending=True)
    memory = plan.memory
    if not memory.fits:
        over = next(finding for finding in plan.findings if finding.code == "memory_over_capacity")
        return ReadyItem(name, False, f"{over.message} {over.hint}".strip(), over.field)
    reported = {"peak": format_bytes(memory.peak_bytes), "capacity": format_bytes(memory.capacity_bytes)}
    return ReadyItem(name, True, tr("About {peak} of {capacity}.", **reported) if memory.capacity_bytes else "", field)
