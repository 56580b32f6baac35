"""Target modules: filter, presets, the tree, and what the ticks compile to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QColor, QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QPushButton, QToolButton

from lora_studio.core.config import RunConfig
from lora_studio.core.counts import count_by_module
from lora_studio.core.errors import InputError
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import PRESETS, Selection, compile_selection
from lora_studio.gui.panels.tree.model import TargetModel
from lora_studio.gui.panels.tree.nodes import Grouping
from lora_studio.gui.panels.tree.view import TargetView
from lora_studio.gui.platform.formatting import format_count
from lora_studio.gui.platform.text import tr
from lora_studio.gui.theme import colors, icon, theme
from lora_studio.gui.widgets import Card, ElidedLabel, ErrorLabel, LineEdit, Pills

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree
    from lora_studio.core.targets import Resolution
    from lora_studio.gui.draft.workspace import Workspace
    from lora_studio.gui.engine.job_center import JobCenter

_FIELDS = ("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern")
_PRESET_TITLES = (("attention", "Attention"), ("mlp", "MLP"), ("all_linear", "All linear"), ("none", "None"), ("custom", "Custom"))
_LARGE = 5000  # modules
_LINEAR = ("linear", "conv1d", "experts")


class TargetsPanel(Card):
    """Shows the draft's targets on its base model; every tick is an edit of the draft."""

    def __init__(self, workspace: Workspace, jobs: JobCenter) -> None:
        super().__init__(tr("Target modules"), name="targets_panel")
        self._workspace = workspace
        self._shown_tree: ModuleTree | None = None
        self._grouping: Grouping = "layer"
        self._preset_cache: dict[str, frozenset[str]] = {}
        self.model = TargetModel(self)
        self.view = TargetView(self.model)
        self._build()
        self._connect()
        self._recolor()
        self._on_model()

    def focus_field(self, path: str) -> bool:
        """Go to the tree, where the field is one of the targets'."""
        mine = path.removeprefix("adapter.") in _FIELDS
        if mine:
            self.view.setFocus()
        return mine

    def set_grouping(self, grouping: Grouping) -> None:
        """Group the tree by layer or by name."""
        self._grouping = grouping
        self._group_button.setText(tr("by layer") if grouping == "layer" else tr("by name"))
        self._lay_tree()

    def _build(self) -> None:
        self._filter = LineEdit(name="target_filter")
        self._filter.setPlaceholderText(tr("Filter modules: name, glob or regex"))
        self._filter.setAccessibleName(tr("Filter modules"))
        self._filter.setClearButtonEnabled(True)
        self._filter.setToolTip(tr("Part of a name, a glob such as layers.?.mlp*, or a regular expression such as (q|v)_proj$"))
        self._filter_error = ErrorLabel("target_filter_error")
        self._error = ErrorLabel("targets_error")
        self.body.addLayout(self._build_filter_line())
        self.body.addWidget(self._filter_error)
        self._pills = Pills([(name, tr(title)) for name, title in _PRESET_TITLES], name="target_presets")
        self.body.addWidget(self._pills)
        self.body.addWidget(self.view, 1)
        self.body.addWidget(self._error)
        self.body.addLayout(self._build_compiled())

    def _build_filter_line(self) -> QHBoxLayout:
        self._group_button = QPushButton(tr("by layer"))
        self._group_button.setObjectName("target_grouping")
        self._group_button.setProperty("role", "disclosure")
        self._group_button.setCursor(Qt.CursorShape.PointingHandCursor)
        self._group_button.setToolTip(tr("Group the tree by layer, or every layer's modules of one name together."))
        line = QHBoxLayout()
        line.setSpacing(6)
        line.addWidget(self._filter, 1)
        line.addWidget(self._group_button)
        return line

    def _build_compiled(self) -> QHBoxLayout:
        self._compiled = ElidedLabel("", "note", "target_compiled")
        self._compiled.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._copy = QToolButton()
        self._copy.setObjectName("copy_targets")
        self._copy.setAccessibleName(tr("Copy target settings"))
        self._copy.setToolTip(tr("Copy these settings as YAML"))
        line = QHBoxLayout()
        line.setSpacing(6)
        line.addWidget(self._compiled, 1)
        line.addWidget(self._copy)
        return line

    def _connect(self) -> None:
        self._filter.textChanged.connect(self._on_filter)
        self._pills.selected.connect(self._on_preset)
        self._group_button.clicked.connect(lambda: self.set_grouping("name" if self._grouping == "layer" else "layer"))
        self._copy.clicked.connect(self._copy_compiled)
        self.model.ticks_edited.connect(self._on_ticks)
        self.model.number_edited.connect(self._on_number)
        self._workspace.draft.config_changed.connect(self._on_config)
        self._workspace.model.changed.connect(self._on_model)
        self._workspace.draft.field_requested.connect(self.focus_field)
        theme().changed.connect(self._recolor)

    # --- a person's wishes ---

    def _on_ticks(self, names: list[str], ticked: bool) -> None:
        """Edit the draft; of a tree so large that compiling takes a while, once the ticks are painted."""
        if len(self.model.nodes) > _LARGE:
            QTimer.singleShot(0, self, lambda: self._tick(names, ticked))
        else:
            self._tick(names, ticked)

    def _tick(self, names: list[str], ticked: bool) -> None:
        selection = self._workspace.plan.selection.toggled(frozenset(names), ticked)
        text = names[0] if len(names) == 1 else tr("{count} modules", count=len(names))
        self._select(selection, tr("Tick {names}", names=text) if ticked else tr("Untick {names}", names=text))

    def _on_number(self, names: list[str], field: str, value: object) -> None:
        """Set modules' own r or alpha, or take it away with an empty text."""
        selection, adapter = self._workspace.plan.selection, self._workspace.draft.config.adapter
        try:
            number = _number(str(value), field, adapter)
        except InputError as error:
            self._error.set_error(str(error))
            return
        chosen = dict.fromkeys(names, number)
        if field == "r":
            selection = Selection(selection.modules, {**selection.ranks, **{name: int(number) for name in chosen}}, selection.alphas)
        else:
            selection = Selection(selection.modules, selection.ranks, {**selection.alphas, **chosen})
        self._select(selection, tr("Change {field} of {count} modules", field=field, count=len(names)))

    def _on_preset(self, name: str) -> None:
        tree = self._workspace.model.tree
        if name != "custom" and tree is not None:
            title = dict(_PRESET_TITLES)[name]
            self._select(Selection(self._preset(name, tree)), tr("Target {preset}", preset=tr(title)))
        self._mark_preset(self._workspace.plan.resolution)

    def _select(self, selection: Selection, text: str) -> None:
        tree, adapter = self._workspace.model.tree, self._workspace.draft.config.adapter
        if tree is None:
            return
        try:
            compiled = compile_selection(selection, tree, adapter.r, adapter.lora_alpha)
            errors = self._workspace.draft.edit(compiled.changes(), text)
        except InputError as error:
            errors = {error.field: str(error)}
        if errors:
            self._show_targets()  # takes back what was ticked at once
            self._error.set_error("; ".join(errors.values()))

    def _on_filter(self, text: str) -> None:
        fault = self.model.set_filter(text)
        self._filter_error.set_error(tr("Not a regular expression: {fault}.", fault=fault) if fault else "")
        if not fault:
            self.view.restore()

    # --- what is shown ---

    def _on_config(self, before: RunConfig, after: RunConfig) -> None:
        if before.adapter != after.adapter:
            self._show_targets()

    def _on_model(self) -> None:
        if self._workspace.model.tree is not self._shown_tree:
            self._preset_cache.clear()
            self._lay_tree()
        self._show_note()

    def _lay_tree(self) -> None:
        self._shown_tree = self._workspace.model.tree
        self.model.set_tree(self._shown_tree, self._grouping)
        self._show_targets()
        self.view.open_first()

    def _show_targets(self) -> None:
        resolution, tree = self._workspace.plan.resolution, self._workspace.model.tree
        adapter = self._workspace.draft.config.adapter
        self._show_compiled(adapter)
        if resolution is None or tree is None:
            self._show_note()
            return
        targets = resolution.by_name
        counts = count_by_module(resolution.adapter, tree, resolution)
        self.model.show_targets(
            {name: target.r for name, target in targets.items()},
            {name: target.lora_alpha for name, target in targets.items()},
            counts,
            (adapter.r, adapter.lora_alpha),
            adapter.use_dora,
        )
        self._mark_preset(resolution)
        self._error.set_error(" ".join(f"{finding.message} {finding.hint}" for finding in resolution.errors[:1]))
        self._show_note(sum(counts.values()))

    def _show_note(self, trainable: int | None = None) -> None:
        """Count as PEFT's `get_nb_trainable_parameters()` does."""
        resolution, tree = self._workspace.plan.resolution, self._workspace.model.tree
        if resolution is None or tree is None:
            self.set_note(tr("reading the modules…") if self._workspace.model.job else "")
            return
        if trainable is None:
            trainable = sum(count_by_module(resolution.adapter, tree, resolution).values())
        linear = sum(1 for module in tree.targetable if module.kind in _LINEAR)
        ticked = sum(1 for target in resolution.targets if target.kind in _LINEAR)
        others = len(resolution.targets) - ticked
        more = tr(" + {count} more", count=others) if others else ""
        self.set_note(
            tr(
                "{ticked} of {linear} linear{more} · {trainable} trainable",
                ticked=ticked,
                linear=linear,
                more=more,
                trainable=format_count(trainable),
            )
        )

    def _mark_preset(self, resolution: Resolution | None) -> None:
        tree = self._workspace.model.tree
        if resolution is None or tree is None:
            self._pills.set_current(None)
            return
        chosen = frozenset(resolution.by_name)
        plain = not self._workspace.draft.config.adapter.rank_pattern and not self._workspace.draft.config.adapter.alpha_pattern
        wanted = PRESETS if chosen else ("none",)  # of some models, a preset is empty
        matching = (name for name in wanted if plain and self._preset(name, tree) == chosen)
        self._pills.set_current(next(matching, "custom"))

    def _preset(self, name: str, tree: ModuleTree) -> frozenset[str]:
        if name not in self._preset_cache:
            self._preset_cache[name] = PRESETS[name](tree)
        return self._preset_cache[name]

    def _show_compiled(self, adapter: AdapterSettings) -> None:
        self._compiled.setText(compiled_text(adapter))
        self._compiled.setToolTip(compiled_text(adapter, "\n"))

    def _copy_compiled(self) -> None:
        QGuiApplication.clipboard().setText(compiled_text(self._workspace.draft.config.adapter, "\n"))

    def _recolor(self) -> None:
        shades = colors()
        self.model.set_colors(QColor(shades.muted), QColor(shades.disabled), QColor(shades.accent))
        self._copy.setIcon(icon("copy", shades.muted))


def compiled_text(adapter: AdapterSettings, between: str = " · ") -> str:
    """Write the settings that say what is ticked, as PEFT reads them; what is empty is left out."""
    said = [name for name in _FIELDS if name == "target_modules" or getattr(adapter, name)]
    return between.join(f"{name}: {_listed(getattr(adapter, name), between)}" for name in said)


def _listed(value: object, between: str) -> str:
    """Write a value for one line, or as YAML where lines part the settings."""
    left, right = ("[", "]") if between == "\n" else ("", "")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(key), right)}: {entry}" for key, entry in value.items()) + "}"
    if isinstance(value, tuple):
        return left + ", ".join(_quoted(str(entry), right) for entry in value) + right
    return str(value)


def _quoted(text: str, yaml: str) -> str:
    return f"'{text}'" if yaml and not text.replace("_", "").replace(".", "").isalnum() else text


def _number(text: str, field: str, adapter: AdapterSettings) -> int | float:
    """Read a typed r or alpha; an empty text means the adapter's own.

    Raises:
        InputError: It is no number, or out of the range of its field.
    """
    default: int | float = adapter.r if field == "r" else adapter.lora_alpha
    try:
        value = float(text) if text else float(default)
    except ValueError:
        hint = tr("Type a number, or nothing for the adapter's own.")
        raise InputError(tr("{text!r} is not a number.", text=text), hint, f"adapter.{field}") from None
    if field == "r" and not (value.is_integer() and 1 <= value <= 65536):
        raise InputError(tr("r is a whole number from 1 to 65,536 (given: {text}).", text=text), field="adapter.r")
    if not 0 < value < float("inf"):
        raise InputError(tr("lora_alpha is more than 0 (given: {text}).", text=text), field="adapter.lora_alpha")
    return int(value) if value.is_integer() else value
