"""Training: what is changed often in view, the rest behind one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lora_studio.core.config import field_info
from lora_studio.gui.forms import FieldRow, FieldSpec
from lora_studio.gui.panels.panel import Panel, more_paths
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

_BATCH = "training.per_device_train_batch_size"
_ACCUMULATION = "training.gradient_accumulation_steps"
_EVERY = "training.gradient_checkpointing_every"
_PRODUCT = re.compile(r"\s*(\d+)\s*(?:[×xX*]\s*(\d+)\s*)?")


class TrainingPanel(Panel):
    """Edits `training`, and `data.max_length`, which decides time and memory as batches do."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__(tr("Training"), "training_panel", workspace, jobs)
        self._build()
        self.form.shown.connect(self._refresh)
        workspace.data.changed.connect(self._refresh)
        self._refresh()

    def focus_field(self, path: str) -> bool:
        """Put the cursor into a field; batch size and accumulation share theirs."""
        if path in (_BATCH, _ACCUMULATION):
            self._batch.editor.setFocus()
            return True
        return super().focus_field(path)

    def _build(self) -> None:
        self._add_row("training.method")
        self._add_row("training.learning_rate")
        self._add_row("training.lr_scheduler_type")
        self.body.addWidget(self._build_batch())
        self._add_row("data.max_length")
        self._epochs = self._add_row("training.num_train_epochs")
        self._add_more(tr("Precision, checkpointing, evaluation…"), ["training.warmup_steps", *more_paths("training")], "training_more")

    def _build_batch(self) -> FieldRow:
        text = "\n".join(tr(field_info(path).description) for path in (_BATCH, _ACCUMULATION))
        self._batch = FieldRow(FieldSpec("training.batch", tr("Batch × accumulation"), text, "text"))
        self._batch.edited.connect(self._on_batch)
        return self._batch

    def _on_batch(self, text: str) -> None:
        product = _PRODUCT.fullmatch(text)
        if product is None:
            self._refuse_batch(tr("Write rows a pass × passes a step, such as 8 × 4."))
            return
        batch, accumulation = int(product[1]), int(product[2] or self.form.config.training.gradient_accumulation_steps)
        errors = self._workspace.draft.edit({_BATCH: batch, _ACCUMULATION: accumulation}, tr("Change batch"))
        self._refuse_batch("; ".join(errors.values()))
        if not errors:
            self._refresh()

    def _refuse_batch(self, message: str) -> None:
        self._batch.set_error(message)
        self._workspace.draft.set_invalid(_BATCH, message)

    def _refresh(self) -> None:
        training = self.form.config.training
        if _BATCH not in self._workspace.draft.invalid or self.form.locked:
            self._batch.show_value(f"{training.per_device_train_batch_size} × {training.gradient_accumulation_steps}")
        self._batch.set_locked(self.form.locked)
        rows = training.rows_per_step
        self._batch.set_hint(tr("{count} rows", count=format_count(rows)) if rows > 1 else tr("1 row"))
        steps = None if self.form.locked else self._workspace.plan.total_steps
        self.form.rows[_EVERY].setVisible(training.gradient_checkpointing == "layers")
        self._epochs.set_hint(tr("{count} steps", count=format_count(steps)) if steps else "")
