"""The draft and what follows from it, in one direction: each is given what it needs, and knows nothing of those after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.gui.draft.data_state import DataState
from lora_studio.gui.draft.draft_store import DraftStore
from lora_studio.gui.draft.model_state import ModelState
from lora_studio.gui.draft.plan_state import PlanState
from lora_studio.gui.draft.readiness import Readiness

if TYPE_CHECKING:
    from PySide6.QtCore import QObject

    from lora_studio.gui.engine.job_center import JobCenter


@dataclass(frozen=True)
class Workspace:
    """What a window works on.

    Attributes:
        draft: The settings, their undo stack and files.
        model: What is known of the draft's base model.
        data: What is known of the draft's data.
        plan: Which modules get an adapter, and what a run would take.
        readiness: What a start needs.
    """

    draft: DraftStore
    model: ModelState
    data: DataState
    plan: PlanState
    readiness: Readiness


def open_workspace(jobs: JobCenter, parent: QObject | None = None) -> Workspace:
    """Open the draft of last time, and begin to find out what follows from it; `parent` owns all five."""
    draft = DraftStore(parent)
    model = ModelState(draft, jobs)
    data = DataState(draft, model, jobs)
    plan = PlanState(draft, model, data)
    return Workspace(draft, model, data, plan, Readiness(draft, model, data, plan))
