"""Every architecture, every kind of LoRA, every form of export, loaded again by plain libraries: it answers alike, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from tests.export.adapters import EMBEDDINGS, logits, make_adapter, run_export, targets_of, with_adapter
from tests.tiny import save_tiny_model, tiny_config

ARCHITECTURES = ("llama", "qwen3", "gemma3", "phi3", "gpt2", "gpt_neox", "qwen3_moe")
VARIANTS = ("lora", "rslora", "dora", "patterns", "modules_to_save", "tied_head", "trainable_tokens")
Adapters = Callable[[str, str], tuple[Path, Path]]


def settings_of(architecture: str, variant: str) -> dict[str, Any]:
    """Return the settings of one kind of adapter."""
    targets = targets_of(architecture)
    listed: list[str] = targets["target_modules"]
    embedding = EMBEDDINGS.get(architecture, "embed_tokens")
    if variant == "dora":
        targets.pop("target_parameters", None)  # PEFT has no DoRA for fused experts
    more: dict[str, dict[str, Any]] = {
        "lora": {},
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
        "patterns": {"rank_pattern": {listed[0]: 2}, "alpha_pattern": {listed[-1]: 32}},
        "modules_to_save": {"modules_to_save": ["lm_head"]},
        "tied_head": {"target_modules": [*listed, "lm_head"]},
        "trainable_tokens": {"trainable_token_indices": {embedding: [5, 9, 33]}},
    }
    return {**targets, **more[variant]}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    """Return base and adapter of a cell; `tied_head` has its base tied, where the family can."""
    made: dict[tuple[str, str], tuple[Path, Path]] = {}
    bases: dict[tuple[str, bool], Path] = {}

    def pair(architecture: str, variant: str) -> tuple[Path, Path]:
        if (architecture, variant) not in made:
            root = tmp_path_factory.mktemp(f"{architecture}-{variant}")
            tied = variant == "tied_head" or bool(tiny_config(architecture).tie_word_embeddings)
            if (architecture, tied) not in bases:
                bases[architecture, tied] = save_tiny_model(root / "base", architecture, tie_word_embeddings=tied)
            base = bases[architecture, tied]
            made[architecture, variant] = base, make_adapter(base, root / "adapter", **settings_of(architecture, variant))
        return made[architecture, variant]

    return pair


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", ["adapter", "float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_loaded_by_plain_libraries_answers_alike_or_is_refused(
    architecture: str, variant: str, written: str, adapters: Adapters, tmp_path: Path
) -> None:
    base, adapter = adapters(architecture, variant)
    expected = logits(with_adapter(base, adapter))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-3  # the adapter does something
    target = tmp_path / "made"
    if written == "adapter":
        told = run_export(source=str(adapter), kind="adapter", to=str(target))
        assert (logits(with_adapter(base, target)) - expected).abs().max() <= 1e-4
    elif variant == "tied_head":
        with pytest.raises(InputError, match=r"is tied to .*: an adapter here would merge wrongly"):
            run_export(source=str(adapter), kind="merged", to=str(target), dtype=written)
        return
    else:
        told = run_export(source=str(adapter), kind="merged", to=str(target), dtype=written)
        merged = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
        assert merged.dtype == getattr(torch, written)
        if written == "float32":
            assert (logits(merged) - expected).abs().max() <= 1e-4
        assert told["certificate"]["exact_logit_difference"] <= 1e-4
    assert told["certificate"]["verdict"] == ("rounded" if written == "bfloat16" else "exact")
    assert told["certificate"]["grade"] == "logits"
