"""What an adapter can be exported as, before anything is loaded: only what can work is offered, the rest with its reason. No torch here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.adapters.vocabulary import Vocabulary
from lora_studio.core.errors import StudioError
from lora_studio.core.files import write_atomically
from lora_studio.core.modules import ModuleTree
from lora_studio.core.paths import studio_paths
from lora_studio.export.export_format import EXPORT_FORMATS, ExportFormat
from lora_studio.export.gguf.fit import OTHER_VOCABULARY, beyond_gguf
from lora_studio.export.gguf.llama_cpp import find_converter
from lora_studio.export.gguf.llama_families import model_beyond_gguf
from lora_studio.export.mlx.fit import beyond_mlx
from lora_studio.models.check import read_model_config
from lora_studio.models.facts import read_facts
from lora_studio.models.quantization import NONE
from lora_studio.models.quantized_folders import folder_quantization
from lora_studio.models.stored_quantization import stored_finding
from lora_studio.models.tree_cache import cached_tree

# Seconds for each GB of the base in float32, certificate and all: two cores, until this machine's own exports tell.
_USUAL_PACE = {"adapter": 10.0, "merged": 20.0, "gguf": 35.0, "gguf-adapter": 30.0, "mlx-adapter": 1.0}
_BITS = {
    "f32": 32.0,
    "f16": 16.0,
    "bf16": 16.0,
    "q8_0": 8.5,
    "q6_k": 6.6,
    "q5_k_m": 5.7,
    "q5_k_s": 5.5,
    "q4_k_m": 4.9,
    "q4_k_s": 4.6,
    "q3_k_m": 3.9,
    "q2_k": 3.0,
}


@dataclass(frozen=True)
class Offer:
    """One form of export.

    Attributes:
        form: Which.
        reason: Why it cannot be, as a sentence; empty where it can.
        needs_converter: Whether llama.cpp's converter has to be fetched first.
    """

    form: ExportFormat
    reason: str = ""
    needs_converter: bool = False


def offers(adapter: Path, base: Path | None) -> dict[ExportFormat, Offer]:
    """Say of each form whether it can be.

    Args:
        adapter: The adapter's folder. What cannot be read is offered: the export itself then says what is wrong.
        base: The base model's folder; None where it is not on this machine yet.
    """
    found: dict[ExportFormat, Offer] = {form: Offer(form) for form in EXPORT_FORMATS}
    try:
        tree = cached_tree(base) if base else None
        family = str(read_model_config(base).get("model_type", "")) if base else ""
        saved = SavedAdapter.open(adapter, tree)
        resized = tree is not None and Vocabulary.of(saved, tree, base).resized
        converter = find_converter()
    except (StudioError, OSError):
        return found
    tied = _tied(saved, tree) or _unread(base)
    unknown = model_beyond_gguf(base, own_converter=bool(converter and converter.is_own)) if base else ""
    found["merged"] = Offer("merged", tied)
    found["gguf"] = Offer("gguf", tied or unknown, needs_converter=converter is None)
    beyond = beyond_gguf(saved, family, tree) if family else ""
    found["gguf-adapter"] = Offer("gguf-adapter", beyond or (OTHER_VOCABULARY if resized else ""))
    beyond = beyond_mlx(saved, family, tree) if family else ""
    found["mlx-adapter"] = Offer("mlx-adapter", beyond or (OTHER_VOCABULARY if resized else ""))
    return found


def _unread(base: Path | None) -> str:
    """Say why a base that is quantized already is not merged into, unpacked; empty where it can be."""
    found = stored_finding(folder_quantization(base), NONE, "cpu") if base and base.is_dir() else None
    return f"{found.message} {found.hint}" if found else ""


def _tied(saved: SavedAdapter, tree: ModuleTree | None) -> str:
    """Say why an adapter on a tied weight is not merged; empty where there is none."""
    for pair in saved.pairs.values():
        partner = tree.tied_partner(pair.name) if tree else ""
        if partner and not saved.is_trained(f"{partner}.weight"):
            return f"{pair.name} is tied to {partner}, and an adapter there would act in both places."
    return ""


def gguf_bytes(parameters: int, outtype: str) -> int:
    """Return about what a GGUF model weighs."""
    return round(parameters * _BITS[outtype] / 8)


def seconds_for(form: str, base: Path | None) -> float | None:
    """Estimate how long an export takes here, certificate and all, in seconds; None where the base's size is not known."""
    parameters = _parameters(base)
    pace = _paces().get(form, _USUAL_PACE[form])
    return None if parameters is None else 3.0 + pace * parameters * 4 / 1e9


def remember(form: str, base: Path | None, seconds: float) -> None:
    """Take note of how long an export took, for the next estimate."""
    parameters = _parameters(base)
    if not parameters:
        return
    pace = max(0.0, seconds - 3.0) / (parameters * 4 / 1e9)
    write_atomically(_pace_file(), json.dumps({**_paces(), form: round(pace, 3)}) + "\n")


def _parameters(base: Path | None) -> int | None:
    try:
        return read_facts(base).parameters if base else None
    except (StudioError, OSError):
        return None


def _paces() -> dict[str, float]:
    try:
        raw: object = json.loads(_pace_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): float(value) for key, value in raw.items() if isinstance(value, int | float)} if isinstance(raw, dict) else {}


def _pace_file() -> Path:
    return studio_paths().cache / "export_pace.json"
