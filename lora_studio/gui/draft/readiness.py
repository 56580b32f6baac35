"""What a start needs, item by item: the line above the window, and what a click on it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.data.bad_rows import refused_rows
from lora_studio.data.check import bad_rows_finding
from lora_studio.gui.platform.formatting import format_bytes
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.findings import Finding
    from lora_studio.data.rows.row import BadRow
    from lora_studio.gui.draft.workspace import Workspace
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


def readiness_of(workspace: Workspace) -> list[ReadyItem]:
    """Say what a start of the draft needs, and whether it is there."""
    items = [_model(workspace), _targets(workspace), _data(workspace), _memory(workspace)]
    for finding in _faults(workspace.plan):
        items.append(ReadyItem(tr("settings"), False, f"{finding.message} {finding.hint}".strip(), finding.field))
    for path, message in workspace.invalid.items():
        items.append(ReadyItem(tr("settings"), False, f"{path}: {message}", path))
    return items


def _faults(plan: Plan | None) -> list[Finding]:
    """Give the plan's errors; those of the targets are told as such."""
    told = plan.resolution.findings if plan else ()
    return [finding for finding in plan.findings if finding.level == "error" and finding not in told] if plan else []


def _model(workspace: Workspace) -> ReadyItem:
    name, field, model = tr("model"), "model.name_or_path", workspace.model
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
    return ReadyItem(name, True, tr("The base model is ready."), field)


def _targets(workspace: Workspace) -> ReadyItem:
    name, field, planner = tr("targets"), "adapter.target_modules", workspace.planner
    if planner.error:
        return ReadyItem(name, False, f"{planner.error} {planner.hint}".strip(), planner.field or field)
    if planner.resolution is None:
        return ReadyItem(name, False, tr("The modules are not known yet."), field, pending=workspace.model.job is not None)
    count = len(planner.resolution.targets)
    if not count:
        return ReadyItem(name, False, tr("No module is ticked: tick at least one in the tree."), field)
    return ReadyItem(name, True, tr("{count} modules get an adapter.", count=count), field)


def _data(workspace: Workspace) -> ReadyItem:
    name, data = tr("data"), workspace.data
    if data.error:
        return ReadyItem(name, False, f"{data.error} {data.hint}".strip(), data.field)
    check = data.check
    if check is None:
        return ReadyItem(name, False, tr("Reading the rows…"), "data.train", pending=True)
    if not check.train_rows:
        return ReadyItem(name, False, tr("The data holds no row to train on."), "data.train")
    if check.bad_rows and workspace.config.data.on_bad_rows == "stop":
        return ReadyItem(name, False, tr("{count} bad rows: mend them, or skip bad rows.", count=check.bad_count), "data.on_bad_rows")
    if refused := refused_rows(check, data.report):
        return _refused(refused, workspace.config.data.on_bad_rows)
    return ReadyItem(name, True, tr("{count} rows.", count=check.rows), "data.train")


def _refused(rows: tuple[BadRow, ...], on_bad_rows: str) -> ReadyItem:
    """Name the first of the rows that the chat template refuses, which stop a run unless bad rows are skipped."""
    found = bad_rows_finding(rows[:1], on_bad_rows, len(rows))
    assert found is not None
    return ReadyItem(tr("data"), found.level != "error", f"{found.message} {found.hint}", found.field)


def _memory(workspace: Workspace) -> ReadyItem:
    name, field, plan = tr("fits memory"), "training.per_device_train_batch_size", workspace.plan
    if plan is None:
        return ReadyItem(name, False, tr("Memory is told when the modules are known."), field, pending=True)
    memory = plan.memory
    if not memory.fits:
        over = next(finding for finding in plan.findings if finding.code == "memory_over_capacity")
        return ReadyItem(name, False, f"{over.message} {over.hint}".strip(), over.field)
    told = {"peak": format_bytes(memory.peak_bytes), "capacity": format_bytes(memory.capacity_bytes)}
    return ReadyItem(name, True, tr("About {peak} of {capacity}.", **told) if memory.capacity_bytes else "", field)
