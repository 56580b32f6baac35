"""What PEFT does to the settings of models whose experts transformers 5 fused into one parameter.

Adapters of these families were once trained on a Linear for each expert, so PEFT 0.21 reads the old names
(`gate_proj`, `up_proj`, `down_proj`, the router `gate`; Mixtral's `w1`, `w2`, `w3`) as the fused parameters, wherever they stand.
Source: `_convert_peft_config_moe` in `peft.utils.transformers_weight_conversion`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lora_studio.core.errors import InputError
from lora_studio.core.modules import ModuleTree
from lora_studio.core.settings import AdapterSettings

_QWEN_NAMES = {"gate": "gate.weight", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
_MIXTRAL_NAMES = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}

# Model types whose checkpoints transformers converts as Mixtral's or as Qwen2-MoE's, which is what PEFT goes by.
MIXTRAL_FAMILY = frozenset({"mixtral", "minimax", "minimax_m2"})
QWEN_FAMILY = frozenset(
    {
        "Dots3NoteTextModel",
        "UnlimitedOcrTextModel",
        "afmoe",
        "beam",
        "cohere2_moe",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "dots1",
        "ernie4_5_moe",
        "exaone_moe",
        "flex_olmo",
        "glm4_moe",
        "glm4_moe_lite",
        "glm4v_moe",
        "glm_moe_dsa",
        "hunyuan_v1_moe",
        "longcat_flash",
        "mellum",
        "olmoe",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_omni_moe",
        "qwen3_omni_moe_text",
        "qwen3_omni_moe_thinker",
        "sarvam_mla",
        "solar_open",
    }
)


def rewritten_names(model_type: str) -> dict[str, str]:
    """Map the names PEFT rewrites in a model of this type to the parameters it takes for them; empty for most models."""
    if model_type in MIXTRAL_FAMILY:
        return _MIXTRAL_NAMES
    return _QWEN_NAMES if model_type in QWEN_FAMILY else {}


def rewritten_name(entry: str, names: Collection[str]) -> str | None:
    """Return the one of `names` that PEFT finds in an entry, or None."""
    return next((name for name in names if entry == name or entry.endswith(f".{name}")), None)


def rewrite_for_fused_experts(adapter: AdapterSettings, tree: ModuleTree) -> AdapterSettings:
    """Return the settings PEFT goes on with: the same ones, but in a family with fused experts.

    There `gate_up_proj` gets twice `r` and twice `lora_alpha`, since it holds two of the old modules.

    Raises:
        InputError: Only one of two modules fused into one parameter is targeted.
    """
    names = rewritten_names(tree.model_type)
    if not names:
        return adapter
    entries = _old_entries(adapter, tree, names)
    found = {entry: rewritten_name(entry, names) for entry in entries}
    taken = {old for old in found.values() if old is not None}
    if not taken and adapter.target_modules != "all-linear":
        return adapter
    changes: dict[str, object] = {
        "target_modules": tuple(entry for entry, old in found.items() if old is None),
        "target_parameters": tuple(dict.fromkeys([*adapter.target_parameters, *(names[old] for old in names if old in taken)])),
    }
    if _both_halves(taken, names):
        key = r".*\.gate_up_proj"
        changes["rank_pattern"] = {**adapter.rank_pattern, key: adapter.r * 2}
        changes["alpha_pattern"] = {**adapter.alpha_pattern, key: adapter.lora_alpha * 2}
    return AdapterSettings.model_validate({**adapter.model_dump(), **changes})


def _old_entries(adapter: AdapterSettings, tree: ModuleTree, names: dict[str, str]) -> list[str]:
    if adapter.target_modules != "all-linear":
        return list(dict.fromkeys(adapter.target_modules))
    leaves = (module.leaf_name for module in tree.modules if module.kind in ("linear", "conv1d") and module.name != tree.output_module)
    return list(dict.fromkeys([*leaves, *names]))


def _both_halves(taken: Iterable[str], names: dict[str, str]) -> bool:
    halves = [old for old, new in names.items() if new == "gate_up_proj"]
    present = [old for old in halves if old in set(taken)]
    if present and len(present) < len(halves):
        missing = next(old for old in halves if old not in present)
        raise InputError(
            f"adapter.target_modules: {present[0]} alone cannot be targeted here: it is fused with {missing} into gate_up_proj.",
            f"Target {present[0]} and {missing} together, or give target_parameters: [gate_up_proj].",
            "adapter.target_modules",
        )
    return bool(present)
