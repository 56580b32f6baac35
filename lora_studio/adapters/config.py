"""From our settings to PEFT's: a `LoraConfig` that means the same before and after it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve, selection_of
from lora_studio.core.targets.compile import compile_patterns

if TYPE_CHECKING:
    from peft import LoraConfig


def to_lora_config(adapter: AdapterSettings, tree: ModuleTree | None = None) -> LoraConfig:
    """Make PEFT's config from ours.

    With the model's tree the settings are looked at first: names PEFT would rewrite are given as what it makes of them, and
    patterns that overlap as keys that do not, so that the saved adapter means what was trained.

    Raises:
        InputError: Given the tree, the settings match nothing or cannot go on this model.
    """
    from peft import LoraConfig

    settings = adapter if tree is None else _settled(adapter, tree)
    conv1d = tree is not None and _is_conv1d(settings, tree)
    return LoraConfig(fan_in_fan_out=conv1d, task_type="CAUSAL_LM", **_peft_fields(settings))


def _settled(adapter: AdapterSettings, tree: ModuleTree) -> AdapterSettings:
    resolution = resolve(adapter, tree).check()
    settings = resolution.adapter
    if not (settings.rank_pattern or settings.alpha_pattern):
        return settings
    patterns = compile_patterns(selection_of(resolution), settings.r, settings.lora_alpha)
    changes = {"rank_pattern": dict(patterns.rank_pattern), "alpha_pattern": dict(patterns.alpha_pattern)}
    return AdapterSettings.model_validate({**settings.model_dump(), **changes})


def _is_conv1d(adapter: AdapterSettings, tree: ModuleTree) -> bool:
    """Return whether the first target stores its weight in × out; PEFT turns the switch itself where targets are mixed."""
    return next((target.kind == "conv1d" for target in resolve(adapter, tree).targets if target.kind in ("linear", "conv1d")), False)


def _peft_fields(adapter: AdapterSettings) -> dict[str, Any]:
    listed = adapter.target_modules
    return {
        "r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "target_modules": listed if isinstance(listed, str) else list(listed),
        "target_parameters": list(adapter.target_parameters) or None,
        "exclude_modules": list(adapter.exclude_modules) or None,
        "layers_to_transform": list(adapter.layers_to_transform) if adapter.layers_to_transform else None,
        "rank_pattern": dict(adapter.rank_pattern),
        "alpha_pattern": dict(adapter.alpha_pattern),
        "modules_to_save": list(adapter.modules_to_save) or None,
        "use_rslora": adapter.use_rslora,
        "use_dora": adapter.use_dora,
        "bias": adapter.bias,
        "init_lora_weights": adapter.init_lora_weights,
    }
