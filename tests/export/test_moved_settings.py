"""Adapters whose modules lie below another parent in their base: what their settings mean of each module stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora_studio.export.imports.importer import import_adapter
from tests.export.adapters import run_export

TinyModel = Callable[[str], Path]
IDS = torch.arange(5, 25)[None]
Q = "self_attn.q_proj"


def trained(base: Path, folder: Path, parent: str, settings: dict[str, Any]) -> torch.Tensor:
    """Write an adapter as a class would that calls the text part `parent`; give the logits it was trained to."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)).eval()
    for _name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    moved = {name.replace("base_model.model.model.", f"base_model.model.{parent}"): tensor for name, tensor in weights.items()}
    save_file(moved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text().replace('"model.layers', f'"{parent}layers'))
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    with torch.no_grad():
        return adapted(IDS).logits


def logits(base: Path, adapter: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter).eval()(IDS).logits


SETTINGS: dict[str, dict[str, Any]] = {
    "alpha": {"target_modules": [f"model.layers.0.{Q}", f"model.layers.1.{Q}"], "alpha_pattern": {f"model.layers.0.{Q}": 64}},
    "rank": {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {f"model.layers.1.{Q}": 7}, "alpha_pattern": {"up_proj": 3}},
    "anchored": {"target_modules": ["q_proj"], "alpha_pattern": {rf"^model\\.layers\\.0\\.{Q.replace('.', chr(92) * 2 + '.')}$": 64}},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True, "rank_pattern": {f"model.layers.1.{Q}": 9}},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["model.layers.1.mlp"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5]}},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", list(SETTINGS))
@pytest.mark.parametrize("parent", ["model.language_model.", "language_model.model."])
def test_an_adapter_below_another_parent_computes_what_it_did(kind: str, parent: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    base = tiny_model("llama")
    wanted = trained(base, tmp_path / "made", parent, SETTINGS[kind])
    import_adapter(tmp_path / "made", tmp_path / "taken", None)
    assert float((logits(base, tmp_path / "taken") - wanted).abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_its_merge_is_what_it_computes(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = tiny_model("llama")
    wanted = trained(base, tmp_path / "made", "model.language_model.", SETTINGS["alpha"])
    import_adapter(tmp_path / "made", tmp_path / "taken", None)
    run_export(source=str(tmp_path / "taken"), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(IDS).logits
    assert float((merged - wanted).abs().max()) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_experts_below_another_parent_stay_parameters(tiny_model: TinyModel, tmp_path: Path) -> None:
    base = tiny_model("qwen3_moe")
    settings = {"target_modules": ["q_proj"], "target_parameters": ["model.layers.0.mlp.experts.gate_up_proj"]}
    wanted = trained(base, tmp_path / "made", "model.language_model.", settings)
    import_adapter(tmp_path / "made", tmp_path / "taken", None)
    assert float((logits(base, tmp_path / "taken") - wanted).abs().max()) < 1e-5
