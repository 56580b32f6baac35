"""Adapter: rank, alpha with the scale it comes to, dropout, variant, and what is rarely changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMenu, QSlider, QToolButton

from lora_studio.core.settings import AdapterSettings
from lora_studio.gui.forms import FieldRow, FieldSpec
from lora_studio.gui.panels.panel import Panel, more_paths
from lora_studio.gui.panels.presets import PRESETS, preset_changes
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

_LARGEST_EXPONENT = 8  # the slider goes to 256; the editor beside it goes on
_VARIANTS = ("LoRA", "rsLoRA", "DoRA", "rsLoRA + DoRA")
_SWITCHES = ("adapter.use_rslora", "adapter.use_dora")


class AdapterPanel(Panel):
    """Edits `adapter` but for its targets, which are the tree's."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__(tr("Adapter"), "adapter_panel", workspace, jobs)
        self._drag = 0
        self._build()
        self.form.shown.connect(self._refresh)
        workspace.plan.changed.connect(self._refresh)
        self._refresh()

    def _build(self) -> None:
        self._add_row("adapter.r").title.setText(tr("Rank  r"))
        self.body.addWidget(self._build_slider())
        self._alpha = self._add_row("adapter.lora_alpha")
        self._add_row("adapter.lora_dropout")
        self.body.addWidget(self._build_variant())
        paths = [path for path in more_paths("adapter") if path not in _SWITCHES]
        self._add_more(tr("Init, bias, saved modules…"), paths, "adapter_more")
        self.add_header_widget(self._build_presets())

    def _build_slider(self) -> QSlider:
        slider = self._slider = QSlider(Qt.Orientation.Horizontal)
        slider.setObjectName("rank_slider")
        slider.setAccessibleName(tr("Rank"))
        slider.setRange(0, _LARGEST_EXPONENT)
        slider.setPageStep(1)
        slider.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        slider.wheelEvent = lambda event: event.ignore()  # type: ignore[method-assign]  # scrolling past changes nothing
        slider.setToolTip(FieldSpec.of("adapter.r").tooltip)
        slider.sliderPressed.connect(self._begin_drag)
        slider.sliderReleased.connect(self._begin_drag)
        slider.valueChanged.connect(self._on_slider)
        return slider

    def _build_variant(self) -> FieldRow:
        spec = FieldSpec(
            "adapter.variant", tr("Variant"), "\n".join(FieldSpec.of(path).description for path in _SWITCHES), "choice", choices=_VARIANTS
        )
        self._variant = FieldRow(spec)
        self._variant.edited.connect(self._on_variant)
        return self._variant

    def _build_presets(self) -> QToolButton:
        button = self._presets = QToolButton()
        button.setObjectName("adapter_presets")
        button.setText(tr("Presets"))
        button.setToolTip(tr("Targets and settings that go together, each with its reason."))
        button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(button)
        menu.setToolTipsVisible(True)
        for preset in PRESETS:
            action = menu.addAction(f"{tr(preset.title)}: {tr(preset.reason)}")
            action.setObjectName(f"preset_{preset.name}")
            action.triggered.connect(lambda _on=False, chosen=preset: self.apply_preset(chosen.name))
        button.setMenu(menu)
        return button

    def apply_preset(self, name: str) -> None:
        """Make a preset's targets and settings the draft's, as one undo step."""
        preset = next(preset for preset in PRESETS if preset.name == name)
        changes = preset_changes(preset, self._workspace.model.tree)
        self.form.edit(changes, tr("Preset {title}", title=tr(preset.title)))

    def _begin_drag(self) -> None:
        self._drag += 1

    def _on_slider(self, exponent: int) -> None:
        if not self._slider.isSliderDown():
            self._drag += 1
        self.form.edit({"adapter.r": 2**exponent}, gesture=f"rank slider {self._drag}")

    def _on_variant(self, variant: str) -> None:
        chosen = {"adapter.use_rslora": "rsLoRA" in variant, "adapter.use_dora": "DoRA" in variant}
        self.form.edit(chosen, tr("Change variant"))

    def _refresh(self) -> None:
        adapter = self.form.config.adapter
        self._slider.blockSignals(True)
        self._slider.setValue(min(round(math.log2(adapter.r)), _LARGEST_EXPONENT))
        self._slider.blockSignals(False)
        self._slider.setEnabled(not self.form.locked)
        self._presets.setVisible(not self.form.locked)
        self._variant.set_locked(self.form.locked)
        self._variant.show_value(_VARIANTS[adapter.use_rslora + 2 * adapter.use_dora])
        self._alpha.set_hint(scale_text(adapter))


def scale_text(adapter: AdapterSettings) -> str:
    """Write what the update is multiplied by: scale α/r = 2.0."""
    if adapter.use_rslora:
        return tr("scale α/√r = {scale}", scale=f"{adapter.lora_alpha / math.sqrt(adapter.r):.3g}")
    scale = adapter.lora_alpha / adapter.r
    return tr("scale α/r = {scale}", scale=f"{scale:.1f}" if scale >= 0.1 and round(scale, 1) == scale else f"{scale:.3g}")
