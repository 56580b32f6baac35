"""What the draft comes to on its base model: the modules that get an adapter at once, parameters and memory a moment later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QTimer, Signal

from lora_studio.core.config import RunConfig
from lora_studio.core.findings import Finding
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import Resolution, Selection, resolve, selection_of
from lora_studio.data.batching.plan import StepPlan
from lora_studio.inference.warm_start import NewAdapter, warm_start_findings
from lora_studio.planning.device import Device, find_device
from lora_studio.planning.plan import base_finding, make_plan

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree
    from lora_studio.gui.draft.data_state import DataState
    from lora_studio.gui.draft.draft_store import DraftStore
    from lora_studio.gui.draft.model_state import ModelState
    from lora_studio.planning.plan import Plan

_PLAN_AFTER_MS = 20


@dataclass(frozen=True)
class ReportTokens:
    """Tokens of the data, from its report."""

    total: int
    trained: int
    max: int


@dataclass(frozen=True)
class ReportFigures:
    """What a plan takes from the data's report."""

    rows: int
    tokens: ReportTokens
    truncated_rows: int
    untrained_rows: int
    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> ReportFigures:
        """Read them from `data --json`."""
        tokens = report["tokens"]
        counts = ReportTokens(tokens["total"], tokens["trained"], tokens["max"])
        return cls(
            report["rows"],
            counts,
            report["truncated_rows"],
            report["untrained_rows"],
            tuple(Finding(**entry) for entry in report.get("findings", ())),
        )


class PlanState(QObject):
    """Follows the draft, its tree and its data.

    Attributes:
        plan: Parameters, file size and memory; None without a tree.
        error: What keeps the targets from being trained; empty when nothing does.
        hint: The way out of the error.
        field: The setting at fault.
    """

    changed = Signal()

    def __init__(self, draft: DraftStore, model: ModelState, data: DataState) -> None:
        super().__init__(draft)
        self._draft = draft
        self._model = model
        self._data = data
        self._resolved: tuple[AdapterSettings, ModuleTree, Resolution] | None = None
        self._devices: dict[str, Device] = {}
        self.plan: Plan | None = None
        self.error = self.hint = self.field = ""
        self._timer = QTimer(self, singleShot=True, interval=_PLAN_AFTER_MS)
        self._timer.timeout.connect(self.replan)
        draft.config_changed.connect(self._on_config)
        model.changed.connect(self._timer.start)
        data.changed.connect(self._timer.start)

    @property
    def resolution(self) -> Resolution | None:
        """Which modules the draft's adapter wraps, always of the draft as it is now; None without a tree."""
        tree = self._model.tree
        if tree is None:
            return None
        adapter = self._draft.config.adapter
        known = self._resolved
        if known is None or known[0] != adapter or known[1] is not tree:
            known = self._resolved = (adapter, tree, resolve(adapter, tree))
        return known[2]

    @property
    def selection(self) -> Selection:
        """The ticks and overrides of the draft."""
        resolution = self.resolution
        return selection_of(resolution) if resolution else Selection()

    @property
    def total_steps(self) -> int | None:
        """Steps a run of the draft takes; None until the rows are counted."""
        check, config = self._data.check, self._draft.config
        if check is None or not check.train_rows:
            return None
        held_out = 0 if config.data.eval else config.data.eval_rows or round(check.train_rows * config.data.eval_fraction)
        count = check.train_rows - held_out
        report = self._data.report
        if config.data.packing and report is not None:
            count = report["packing"]["blocks"]
        rows = [1] * max(1, count)
        return StepPlan(rows, rows, config.training).total_steps

    @property
    def device(self) -> Device:
        """The device a run would take; looked for once for each wish, since asking a driver takes its time."""
        wanted = self._draft.config.training.device
        if wanted not in self._devices:
            self._devices[wanted] = find_device(wanted)
        return self._devices[wanted]

    @property
    def base_refused(self) -> Finding | None:
        """Why the base model, as its files have it, cannot be trained on here; known before its modules are."""
        facts = self._model.facts
        return base_finding(self._draft.config, facts, self.device.kind) if facts else None

    def replan(self) -> None:
        """Work out the plan now."""
        self._timer.stop()
        self.plan = None
        self.error = self.hint = self.field = ""
        resolution = self.resolution
        if resolution is not None and self._model.facts is not None:
            self.plan = self._make_plan()
            for finding in resolution.errors[:1]:
                self.error, self.hint, self.field = finding.message, finding.hint, finding.field
        self.changed.emit()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a person should know of the draft before it runs."""
        return self.plan.findings if self.plan else ()

    def _make_plan(self) -> Plan:
        facts, tree = self._model.facts, self._model.tree
        assert facts is not None
        assert tree is not None
        assert self.resolution is not None
        report, config, source = self._data.report, self._draft.config, self._model.source
        new = NewAdapter(config.adapter, tree, self.resolution, source.path if source else None)
        found = warm_start_findings(new, hashed=False)  # a start reads the weights too, which takes too long here
        return make_plan(config, facts, tree, ReportFigures.of(report) if report else None, self.device, self.resolution, found)

    def _on_config(self, before: RunConfig, after: RunConfig) -> None:
        if before.name != after.name and before.replace({"name": after.name}) == after:
            return
        self._timer.start()
