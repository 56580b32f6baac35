"""Another base model under the same ticks: what still matches stays, what does not is listed, all in one undo step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import PRESETS, Selection, compile_selection, resolve
from lora_studio.gui.platform.text import tr

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree
    from lora_studio.gui.draft.draft_store import DraftStore

_ENTRIES = ("target_modules", "target_parameters", "exclude_modules", "modules_to_save")
_PATTERNS = ("rank_pattern", "alpha_pattern")
_UNMATCHED = frozenset({"target_unmatched", "exclude_unmatched", "saved_unmatched", "pattern_unused"})


@dataclass(frozen=True)
class CarriedOver:
    """What becomes of target settings on another model.

    Attributes:
        changes: Settings to change, as `{dotted path: value}`.
        lost: Entries that match nothing there.
        preset: The preset that took their place; empty when none did.
    """

    changes: dict[str, object]
    lost: tuple[str, ...]
    preset: str = ""


def carried_over(adapter: AdapterSettings, tree: ModuleTree, preset: str = "") -> CarriedOver:
    """Fit target settings to another model.

    Entries and patterns that match nothing there are dropped. Where the ticks were those of a preset and not every name
    of it exists there, the preset of the other model takes their place.

    Args:
        adapter: The settings as they are.
        tree: The other model's modules.
        preset: Name of the preset the ticks were, on the model before; empty for a choice of one's own.
    """
    changes: dict[str, object] = {}
    lost: list[str] = []
    for name in (*_ENTRIES, *_PATTERNS):
        kept, gone = _split(adapter, name, tree)
        if gone:
            changes[f"adapter.{name}"] = kept
            lost += [f"{name}: {entry}" for entry in gone]
    layers = _kept_layers(adapter, tree)
    if layers != adapter.layers_to_transform:
        changes["adapter.layers_to_transform"] = layers
        lost += [f"layers_to_transform: {layer}" for layer in adapter.layers_to_transform or () if layer not in (layers or ())]
    if not lost or preset not in PRESETS:
        return CarriedOver(changes, tuple(lost))
    chosen = PRESETS[preset](tree)
    if not chosen:
        return CarriedOver(changes, tuple(lost))
    compiled = compile_selection(Selection(chosen), tree, adapter.r, adapter.lora_alpha)
    return CarriedOver({**changes, **compiled.changes()}, tuple(lost), preset)


def preset_of(adapter: AdapterSettings, tree: ModuleTree) -> str:
    """Name the preset that the settings come to on a model; empty for a choice of one's own."""
    chosen = frozenset(target.name for target in resolve(adapter, tree).targets)
    return next((name for name, select in PRESETS.items() if chosen and select(tree) == chosen), "")


class TargetCarrier:
    """Fits the draft's targets to a newly chosen base model, once its modules are known."""

    def __init__(self, draft: DraftStore) -> None:
        self._draft = draft
        self._count = 0
        self._waiting: tuple[str, str, str] | None = None  # gesture, model, preset

    def choose(self, name: str, revision: str | None, tree: ModuleTree | None) -> dict[str, str]:
        """Make another base model the draft's; `tree` is that of the model before. Returns field errors as `DraftStore.edit` does."""
        self._count += 1
        gesture = f"base model {self._count}"
        preset = preset_of(self._draft.config.adapter, tree) if tree else ""
        self._waiting = (gesture, name, preset)
        changes: dict[str, object] = {"model.name_or_path": name, "model.revision": revision}
        errors = self._draft.edit(changes, tr("Choose {name}", name=name), gesture)
        if errors:
            self._waiting = None
        return errors

    def fit(self, tree: ModuleTree) -> None:
        """Fit the targets to the modules of the draft's model, where that was chosen and has not been fitted to yet."""
        if self._waiting is None:
            return
        gesture, name, preset = self._waiting
        self._waiting = None
        if self._draft.config.model.name_or_path == name:
            self._fit(self._draft.config, tree, gesture, preset)

    def _fit(self, config: RunConfig, tree: ModuleTree, gesture: str, preset: str) -> None:
        try:
            result = carried_over(config.adapter, tree, preset)
        except InputError as error:
            self._draft.tell("warning", str(error))
            return
        if not result.lost:
            return
        self._draft.edit(result.changes, tr("Choose {name}", name=config.model.name_or_path), gesture)
        lost = ", ".join(result.lost)
        if result.preset:
            self._draft.tell("info", tr("This model has other names: {lost}. The same preset is ticked here.", lost=lost))
        else:
            self._draft.tell("warning", tr("This model has nothing that matches {lost}; the other ticks stay.", lost=lost))


def _split(adapter: AdapterSettings, name: str, tree: ModuleTree) -> tuple[object, list[str]]:
    """Part the entries of one setting into those that match something on a model and those that do not."""
    value = getattr(adapter, name)
    if value == "all-linear":
        return value, []
    kept = [entry for entry in value if not _is_unmatched(name, entry, value, adapter, tree)]
    gone = [entry for entry in value if entry not in kept]
    if name in _PATTERNS:
        return {entry: value[entry] for entry in kept}, gone
    return tuple(kept), gone


def _is_unmatched(name: str, entry: str, value: object, adapter: AdapterSettings, tree: ModuleTree) -> bool:
    """Ask the resolver about one entry alone."""
    alone: dict[str, object] = {
        "target_modules": (),
        "target_parameters": (),
        "exclude_modules": (),
        "modules_to_save": (),
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
    }
    if name in _PATTERNS:
        alone["target_modules"] = tuple({module.leaf_name for module in tree.targetable if module.kind != "experts"})
        alone["target_parameters"] = tuple({module.leaf_name for module in tree.targetable if module.kind == "experts"})
    assert isinstance(value, tuple | dict)
    alone[name] = {entry: value[entry]} if isinstance(value, dict) else (entry,)
    settings = AdapterSettings.model_validate({**adapter.model_dump(), **alone})
    return any(finding.code in _UNMATCHED and finding.subject == entry for finding in resolve(settings, tree).findings)


def _kept_layers(adapter: AdapterSettings, tree: ModuleTree) -> tuple[int, ...] | None:
    if adapter.layers_to_transform is None:
        return None
    numbers = {int(part) for module in tree.modules for part in module.name.split(".") if part.isdecimal()}
    return tuple(layer for layer in adapter.layers_to_transform if layer in numbers) or None
