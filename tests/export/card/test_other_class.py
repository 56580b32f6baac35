"""An adapter of a model with images: it can be loaded into both classes, and card and certificate say how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.adapters import make_adapter, run_export
from tests.odd_families import family_config
from tests.tiny import save_tiny_tokenizer


def image_base(folder: Path, family: str) -> Path:
    """Save a tiny model with images as its own class, as the Hub has them."""
    from transformers import AutoModelForImageTextToText

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForImageTextToText.from_config(family_config(family))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.arange(3, 23)[None]
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["model.layers.1.self_attn.q_proj", "down_proj"], "rank_pattern": {"layers.0.mlp.down_proj": 2}},
        {
            "target_modules": ["q_proj", "down_proj"],
            "alpha_pattern": {"model.layers.1.self_attn.q_proj": 64},
            "rank_pattern": {r"^model\.layers\.0\.mlp\.down_proj$": 3},
        },
    ],
)
def test_an_adapter_of_the_text_part_has_the_same_effect_in_the_class_of_the_config(tmp_path: Path, settings: dict[str, Any]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = image_base(tmp_path / "base", "qwen3_5")
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    result = run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "out"))
    classes = result["certificate"]["classes"]
    assert (classes["trained"], classes["other"]) == ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration")
    assert classes["renames"] == {"model.": "model.language_model."}
    assert classes["lines"] in (tmp_path / "out" / "README.md").read_text()
    assert "Qwen3_5ForConditionalGeneration" in (tmp_path / "out" / "certificate.html").read_text()
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["classes"] == classes

    text = AutoModelForCausalLM.from_pretrained(base)
    before = logits(text)
    with_adapter = logits(PeftModel.from_pretrained(text, tmp_path / "out"))
    scope: dict[str, Any] = {}
    lines = classes["lines"].replace("PATH_TO_THIS_FOLDER", str(tmp_path / "out")).replace("'base'", repr(str(base)))
    exec(lines, scope)
    assert (with_adapter - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(scope["model"]), with_adapter, rtol=1e-4, atol=1e-5)


def test_where_one_class_is_all_there_is_nothing_is_said(tmp_path: Path) -> None:
    base = image_base(tmp_path / "base", "gemma3")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    result = run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "out"))
    assert result["certificate"]["classes"] == {}
    assert "which the base's config names" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_family_for_images_alone_is_loaded_by_the_class_that_knows_it(tmp_path: Path, kind: str) -> None:
    base = image_base(tmp_path / "base", "qwen3_vl")
    result = run_export(source=str(make_image_adapter(base, tmp_path / "adapter")), kind=kind, to=str(tmp_path / "out"))
    assert result["certificate"]["classes"] == {"auto": "AutoModelForImageTextToText"}
    assert result["certificate"]["verdict"] == "exact"
    assert "AutoModelForImageTextToText.from_pretrained" in (tmp_path / "out" / "README.md").read_text()


def make_image_adapter(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(1)
    model: Any = AutoModelForImageTextToText.from_pretrained(base)
    targets = r"model\.language_model\..*\.(q_proj|down_proj)"
    get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, target_modules=targets)).save_pretrained(str(folder))
    return folder
