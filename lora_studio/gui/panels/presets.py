"""Targets and settings that go together, each with the reason to take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_studio.core.targets import PRESETS as TARGET_PRESETS
from lora_studio.core.targets import Selection, compile_selection

if TYPE_CHECKING:
    from lora_studio.core.modules import ModuleTree


@dataclass(frozen=True)
class AdapterPreset:
    """A starting point.

    Attributes:
        name: For programs.
        title: What it is called.
        reason: When to take it, as a sentence's end.
        targets: Name of the selection it ticks.
        settings: Values by dotted path.
    """

    name: str
    title: str
    reason: str
    targets: str
    settings: Mapping[str, object]


PRESETS = (
    AdapterPreset("attention_8", "Attention only, r=8", "small and hard to break", "attention", {"adapter.r": 8, "adapter.lora_alpha": 16}),
    AdapterPreset(
        "all_16", "All linear, r=16", "learns most tasks well; a first run", "all_linear", {"adapter.r": 16, "adapter.lora_alpha": 32}
    ),
    AdapterPreset(
        "all_64",
        "All linear, r=64 with rsLoRA",
        "room for much new knowledge, with much data",
        "all_linear",
        {"adapter.r": 64, "adapter.lora_alpha": 64, "adapter.use_rslora": True},
    ),
    AdapterPreset(
        "mlp_8", "MLP only, r=8", "facts and wording rather than where to look", "mlp", {"adapter.r": 8, "adapter.lora_alpha": 16}
    ),
    AdapterPreset(
        "few_rows",
        "Attention only, r=4, dropout",
        "for a few hundred rows: little to memorise with",
        "attention",
        {"adapter.r": 4, "adapter.lora_alpha": 8, "adapter.lora_dropout": 0.1},
    ),
)


def preset_changes(preset: AdapterPreset, tree: ModuleTree | None) -> dict[str, object]:
    """Return a preset as `{dotted path: value}` on a model; without a tree, its settings alone."""
    base: dict[str, object] = {"adapter.use_rslora": False, "adapter.use_dora": False, "adapter.lora_dropout": 0.0}
    changes = {**base, **preset.settings}
    if tree is None:
        return changes
    chosen = Selection(TARGET_PRESETS[preset.targets](tree))
    compiled = compile_selection(chosen, tree, _whole(changes["adapter.r"]), _whole(changes["adapter.lora_alpha"]))
    return {**changes, **compiled.changes()}


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
