"""Adapters made with one class of a checkpoint with images are imported for the other, and compute there what they did."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from lora_studio.adapters.put_on import put_on
from lora_studio.core.errors import InputError
from lora_studio.export.imports.importer import import_adapter
from lora_studio.models.load import load_model
from tests.families.configs import tiny_family_config

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT_CLASSES = {
    "aria": "AriaTextForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma4": "Gemma4ForCausalLM",
    "idefics2": "MistralForCausalLM",
    "idefics3": "LlamaForCausalLM",
    "internvl": "Qwen2ForCausalLM",
    "lfm2_vl": "Lfm2ForCausalLM",
    "llava": "LlamaForCausalLM",
    "llava_next": "LlamaForCausalLM",
    "mistral3": "MistralForCausalLM",
    "paligemma": "GemmaForCausalLM",
    "smolvlm": "LlamaForCausalLM",
    "video_llama_3": "Qwen2ForCausalLM",
}
TEXT_IN_USE = ("llama4", "mllama", "qwen3_5", "qwen3_5_moe")
"""Families of which `AutoModelForCausalLM` makes the text part alone."""
EARLIER = {
    "gemma3": ("model.language_model.", "language_model.model."),
    "internvl": ("model.language_model.", "language_model.model."),
    "llava": ("model.language_model.", "language_model.model."),
    "mistral3": ("model.language_model.", "language_model.model."),
    "qwen2_5_vl": ("model.language_model.", "model."),
    "qwen3_vl": ("model.language_model.", "model."),
}
"""What names began with in the class with images, and what they began with in transformers 4."""
ROTATED = ("qwen2_5_vl",)
IDS = torch.tensor([[5, 9, 120, 33, 7, 250, 18, 44, 61]])
Bases = Callable[[str], Path]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Tiny models with images, saved as their own class, as the Hub has them; each made once."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            config = tiny_family_config(family)
            if family in ROTATED:
                config.text_config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model: Any = AutoModelForImageTextToText.from_config(config)
                for module in model.modules():
                    if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                        torch.nn.init.normal_(module.weight, std=0.08)
            made[family] = tmp_path_factory.mktemp("bases") / family
            model.save_pretrained(made[family])
        return made[family]

    return base


def whole(base: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(base)


def text_of(base: Path) -> Any:
    """Load the text model of a base's files into the class for text that its own config has, as people do who want no images."""
    model: Any = whole(base)
    text: Any = AutoModelForCausalLM.from_config(model.config.get_text_config(decoder=True))
    held = {name: tensor for name, tensor in model.state_dict().items() if not re.search("vision|visual|connector|projector", name)}
    endings = {name: f".{name.removeprefix('model.')}" for name in text.state_dict()}
    own = {name: next(held[one] for one in held if f".{one}".endswith(ending)) for name, ending in endings.items()}
    text.load_state_dict(own)
    return text


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        part = model.base_model.model if isinstance(model, PeftModel) else model
        if part.config.model_type == "llama4":  # whose class for images has no answer for text alone in transformers 5.24
            part = getattr(part, "language_model", part)
        return part.float().eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def adapter_of(model: Any, folder: Path, base: Path, targets: Any) -> torch.Tensor:
    """Save an adapter made on a model, and give what it answers."""
    torch.manual_seed(1)
    patterns = {"alpha_pattern": {r"layers\.1\.": 3}, "rank_pattern": {"q_proj": 2}}
    config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=targets, **patterns)
    made: Any = get_peft_model(model, config)
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(str(folder))
    return logits(made)


def imported(adapter: Path, base: Path, into: Path, **how: Any) -> tuple[torch.Tensor, list[str]]:
    """Import an adapter; give what it answers in the class that is used here, and the codes of what was told."""
    found = import_adapter(adapter, into, str(base), **how)
    model = put_on(load_model(base, torch.float32, torch.device("cpu")), found.folder)
    return logits(model), [finding.code for finding in found.findings]


@pytest.mark.parametrize("family", TEXT_CLASSES)
def test_an_adapter_of_the_class_for_text_acts_alike_in_the_class_with_images(family: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(family)
    text = text_of(base)
    assert type(text).__name__ == TEXT_CLASSES[family]
    before = logits(text)
    meant = adapter_of(text, tmp_path / "adapter", base, r".*layers\.\d+\..*(q_proj|w1|k_proj|down_proj)")
    found, told = imported(tmp_path / "adapter", base, tmp_path / "in")
    assert (meant - before).abs().max() > 1e-2
    assert (found - meant).abs().max() <= 1e-6
    assert told == ["pattern_replaced", "other_class"]


@pytest.mark.parametrize("family", TEXT_IN_USE)
def test_the_text_part_of_an_adapter_of_the_class_with_images_acts_alike_in_the_class_for_text(
    family: str, bases: Bases, tmp_path: Path
) -> None:
    base = bases(family)
    model = whole(base)
    before = logits(model)
    meant = adapter_of(model, tmp_path / "adapter", base, r".*\.(q_proj|o_proj|qkv)")
    with pytest.raises(InputError, match="changes modules that are not in") as refused:
        import_adapter(tmp_path / "adapter", tmp_path / "in", str(base))
    assert (refused.value.field, "--text-only" in refused.value.hint) == ("text_only", True)
    assert not (tmp_path / "in").exists()
    found, told = imported(tmp_path / "adapter", base, tmp_path / "in", text_only=True)
    assert (meant - before).abs().max() > 1e-2
    assert (found - meant).abs().max() <= 1e-6
    assert told[-2:] == ["other_class", "text_only"]


@pytest.mark.parametrize("family", EARLIER)
def test_names_of_transformers_4_are_those_of_today(family: str, bases: Bases, tmp_path: Path) -> None:
    base = bases(family)
    now, then = EARLIER[family]
    meant = adapter_of(whole(base), tmp_path / "adapter", base, r".*language_model.*(q_proj|down_proj)")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name.replace(now, then): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    found, _ = imported(tmp_path / "adapter", base, tmp_path / "in")
    assert (found - meant).abs().max() <= 1e-6


def test_modules_saved_in_full_follow_and_those_left_out_are_forgotten(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_5")
    torch.manual_seed(1)
    saved = ["lm_head", "model.visual.merger.linear_fc2"]
    made: Any = get_peft_model(whole(base), LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj"], modules_to_save=saved))
    for name, parameter in made.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.peft_config["default"].base_model_name_or_path = str(base)
    made.save_pretrained(str(tmp_path / "adapter"))
    found, told = imported(tmp_path / "adapter", base, tmp_path / "in", text_only=True)
    assert (found - logits(made)).abs().max() <= 1e-6
    assert told == ["other_class", "text_only"]


def test_an_adapter_of_images_alone_is_refused_whatever_is_wanted(bases: Bases, tmp_path: Path) -> None:
    base = bases("qwen3_5")
    adapter_of(whole(base), tmp_path / "adapter", base, r".*visual.*\.qkv")
    with pytest.raises(InputError, match="not in Qwen3_5ForCausalLM") as refused:
        import_adapter(tmp_path / "adapter", tmp_path / "in", str(base), text_only=True)
    assert "changes nothing of the text part" in refused.value.hint
