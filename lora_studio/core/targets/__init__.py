"""Target arithmetic: which modules settings mean, and the smallest settings that mean these modules. Light and pure."""

from lora_studio.core.targets.compile import CompiledTargets, compile_selection
from lora_studio.core.targets.index import targetable_reason
from lora_studio.core.targets.presets import PRESETS, all_linear, attention, mlp, no_targets
from lora_studio.core.targets.resolve import Resolution, Target, resolve
from lora_studio.core.targets.selection import Selection, selection_of, targetable_below

__all__ = [
    "PRESETS",
    "CompiledTargets",
    "Resolution",
    "Selection",
    "Target",
    "all_linear",
    "attention",
    "compile_selection",
    "mlp",
    "no_targets",
    "resolve",
    "selection_of",
    "targetable_below",
    "targetable_reason",
]
