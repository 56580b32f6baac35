"""What torchtune writes for PEFT and is not what it trained. No torch here.

torchtune 0.6 turns the rows of B of query and key from its own order of the rotation into transformers', for models too that it holds in
transformers' order, and it says nowhere that an adapter is a DoRA, whose lengths it leaves in its own order.

Source: `torchtune/models/convert_weights.py` and `training/checkpointing/_checkpointer.py` of torchtune 0.6.1, run on tiny models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lora_studio.core.errors import InputError
from lora_studio.core.findings import Finding

_OWN = "adapter_model.pt"
_SETTINGS = frozenset({"r", "lora_alpha", "target_modules", "peft_type", "base_model_name_or_path"})
_UNTURNED = ("qwen2", "qwen3")
FIELD = "path"
_WAY_OUT = "Merge it there, then take its adapter out of the merged model: lora-studio adapter extract."


def refuse_unsaid_dora(config: Mapping[str, Any], parts: Iterable[str]) -> None:
    """See that an adapter with DoRA's lengths says that it is one: PEFT leaves them out otherwise.

    Args:
        config: Its settings.
        parts: What its tensors are of their modules, such as `lora_A.weight`.

    Raises:
        InputError: It does not.
    """
    if config.get("use_dora") or not any(part.startswith("lora_magnitude_vector") for part in parts):
        return
    message = "It holds the lengths of a DoRA (lora_magnitude_vector), and its settings do not say use_dora: PEFT would leave them out."
    hint = (
        f"torchtune writes it so, query and key in an order of its own. {_WAY_OUT} "
        "Was it made with PEFT, write use_dora: true into its adapter_config.json."
    )
    raise InputError(message, hint, FIELD)


def torchtune_findings(config: Mapping[str, Any], modules: Iterable[str], left: Iterable[str], family: str) -> list[Finding]:
    """Say what is wrong with an adapter that torchtune wrote for PEFT.

    Args:
        config: Its settings, as they came.
        modules: Those it is on.
        left: Files beside it.
        family: `model_type` of its base.

    Raises:
        InputError: It is torchtune's for certain, and its rows are in a wrong order.
    """
    turned = sorted(module for module in modules if module.endswith((".q_proj", ".k_proj")))
    if family not in _UNTURNED or not turned or not config.keys() <= _SETTINGS:
        return []
    what = f"torchtune 0.6 mixes up the rows of query and key of {family} as it writes them for PEFT"
    if _OWN in left:
        raise InputError(f"The adapter was written by torchtune, and cannot be taken over: {what} ({turned[0]}).", _WAY_OUT, FIELD)
    message = f"Its settings are as torchtune writes them, and {what}."
    return [Finding("warning", "torchtune_rows", message, f"Was it torchtune: {_WAY_OUT}", FIELD)]
