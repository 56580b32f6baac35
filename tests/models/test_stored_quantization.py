"""Folders whose weights are quantized already: what they are, what they come to in memory, and what is refused before they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from lora_studio.models.facts import read_facts
from lora_studio.models.full_precision import full_precision_of, named_in_full_precision
from lora_studio.models.held_weights import quantized_modules, weight_bytes
from lora_studio.models.inspect import inspect_model, tree_of
from lora_studio.models.load import load_model
from lora_studio.models.stored_quantization import stored_finding, stored_note, stored_quantization
from lora_studio.models.unpacked import open_tensors
from tests.models.packed_folders import BITSANDBYTES, KINDS, pack_experts, save_bitsandbytes, save_gpt_oss, save_packed_model, tell
from tests.models.quantized import held, unpacked
from tests.models.test_quantization import bytes_held
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model(IDS).logits.float()


@pytest.mark.parametrize(
    ("kind", "architecture"), [*((kind, "llama") for kind in KINDS), ("gptq", "qwen3_moe"), ("fp8", "qwen3_moe"), ("awq", "phi3")]
)
def test_packed_weights_are_read_as_what_they_stand_for(kind: str, architecture: str, tmp_path: Path) -> None:
    meant = save_packed_model(tmp_path / "packed", kind, architecture)
    tensors = open_tensors(tmp_path / "packed")
    plain = load_file(tmp_path / "packed-plain/model.safetensors")
    assert {name: tensor.entry.shape for name, tensor in tensors.by_name.items()} == {
        name: tuple(tensor.shape) for name, tensor in plain.items()
    }
    assert tensors.unpacked == meant.keys()
    assert all(torch.equal(tensors.read(name), weight) for name, weight in meant.items())
    facts, tree = read_facts(tmp_path / "packed"), inspect_model(tmp_path / "packed")
    model = load_model(tmp_path / "packed", torch.float32, CPU)
    assert facts.parameters == tree.all_parameters == tree_of(model).all_parameters
    assert facts.dtype == "bfloat16"
    assert [(one.name, one.shape, one.targetable) for one in tree.modules] == [
        (one.name, one.shape, one.targetable) for one in inspect_model(tmp_path / "packed-plain").modules
    ]
    assert torch.equal(logits(model), logits(load_model(tmp_path / "packed-plain", torch.float32, CPU)))


def test_gpt_oss_is_read_from_mxfp4_as_transformers_reads_it(tmp_path: Path) -> None:
    meant = save_gpt_oss(tmp_path / "packed")
    tensors = open_tensors(tmp_path / "packed")
    assert all(torch.equal(tensors.read(name), weight) for name, weight in meant.items())
    facts, tree = read_facts(tmp_path / "packed"), inspect_model(tmp_path / "packed")
    assert facts.parameters == tree.all_parameters
    experts = tree.by_name["model.layers.0.mlp.experts.gate_up_proj"]
    assert (experts.shape, experts.targetable) == ((4, 32, 128), True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.bfloat16)
    assert torch.equal(logits(load_model(tmp_path / "packed", torch.bfloat16, CPU)), logits(theirs))


def test_fp8_is_read_as_transformers_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models import packed_folders

    monkeypatch.setitem(KINDS, "fp8", ({"quant_method": "fp8", "weight_block_size": [16, 16]}, lambda one: packed_folders.fp8(one, 16)))
    save_packed_model(tmp_path / "packed", "fp8", "qwen3_moe")  # transformers wants whole blocks
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "packed", dtype=torch.bfloat16)
    assert torch.equal(logits(load_model(tmp_path / "packed", torch.bfloat16, CPU)), logits(theirs))


@pytest.mark.parametrize(("kind", "architecture"), [("nf4", "llama"), ("fp4", "gpt2"), ("int8", "llama"), ("nf4", "qwen3_moe")])
def test_a_folder_of_bitsandbytes_stays_packed_and_weighs_what_the_plan_says(kind: str, architecture: str, tmp_path: Path) -> None:
    plain = save_bitsandbytes(tmp_path / "packed", kind, architecture)
    facts, tree = read_facts(tmp_path / "packed"), inspect_model(tmp_path / "packed")
    model = load_model(tmp_path / "packed", torch.bfloat16, CPU)
    assert facts.parameters == tree.all_parameters == tree_of(model).all_parameters == inspect_model(plain).all_parameters
    assert held(model).keys() == quantized_modules(tree, "none", facts.stored)
    assert bytes_held(model) == weight_bytes(tree, "none", 2, facts.stored)
    assert {parameter.dtype for parameter in model.parameters() if parameter.dtype.is_floating_point} == {torch.bfloat16}


@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_packed_and_unpacked_answer_alike(kind: str, tmp_path: Path) -> None:
    save_bitsandbytes(tmp_path / "packed", kind)
    packed, whole = (load_model(tmp_path / "packed", torch.float32, CPU, unpack=unpack) for unpack in (False, True))
    assert torch.allclose(logits(packed), logits(whole), atol=1e-5)
    name, layer = next(iter(held(packed).items()))
    own = unpacked(layer)
    assert torch.allclose(whole.get_parameter(f"{name}.weight"), own.float(), atol=1e-3)


def test_experts_packed_one_by_one_are_unpacked_and_the_rest_stays_packed(tmp_path: Path) -> None:
    save_bitsandbytes(tmp_path / "packed", "nf4", "qwen3_moe")
    before = load_model(tmp_path / "packed", torch.float32, CPU)
    pack_experts(tmp_path / "packed")
    facts, tree = read_facts(tmp_path / "packed"), inspect_model(tmp_path / "packed")
    model = load_model(tmp_path / "packed", torch.float32, CPU)
    assert facts.parameters == tree.all_parameters
    assert held(model).keys() == held(before).keys() == quantized_modules(tree, "none", facts.stored)
    assert bytes_held(model) == weight_bytes(tree, "none", 4, facts.stored)
    name = "model.layers.0.mlp.experts.down_proj"
    was, now = before.get_parameter(name), model.get_parameter(name)
    assert 0.05 < float((now - was).norm() / was.norm()) < 0.12


def test_a_config_alone_tells_what_a_folder_of_bitsandbytes_will_weigh(tmp_path: Path) -> None:
    save_bitsandbytes(tmp_path / "packed", "nf4")
    whole = read_facts(tmp_path / "packed").stored
    (tmp_path / "packed/model.safetensors").unlink()
    facts, tree = read_facts(tmp_path / "packed"), inspect_model(tmp_path / "packed")
    assert facts.stored is not None
    assert facts.parameters is None
    assert weight_bytes(tree, "none", 2, facts.stored) == weight_bytes(tree, "none", 2, whole)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"quant_method": "hqq"}, "quantized by hqq are not read here"),
        ({"quant_method": "gptq", "bits": 5}, "read in 2, 3, 4, 8 bits, not in 5"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "laid out as marlin"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "not in 4 bits as gemv"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "sparse"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 3, "type": "int"}}}}, "not in 3"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"bits": 4}, "quantized by unknown"),
    ],
)
def test_what_is_not_read_here_is_said_with_the_way_out_before_it_is_loaded(settings: Any, why: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny-4bit")
    save_tiny_model(tmp_path / "tiny")
    tell(folder, settings)
    assert inspect_model(folder).by_name["model.layers.0.self_attn.q_proj"].targetable
    found = stored_finding(read_facts(folder).stored, "none", "cpu")
    assert found is not None
    assert (found.level, found.field) == ("error", "model.name_or_path")
    assert why in found.message
    assert "Choose the model in full precision" in found.hint
    with pytest.raises(InputError, match="is quantized already"):
        load_model(folder, torch.float32, CPU)


def test_bitsandbytes_missing_or_of_no_use_here_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = stored_quantization({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    twice, apple = stored_finding(stored, "nf4", "cpu"), stored_finding(stored, "none", "mps")
    assert twice is not None
    assert (twice.field, "none" in twice.hint) == ("model.quantization", True)
    assert apple is not None
    assert "not on mps" in apple.message
    monkeypatch.setattr("lora_studio.models.stored_quantization.find_spec", lambda _name: None)
    missing = stored_finding(stored, "none", "cpu")
    assert missing is not None
    assert "bitsandbytes, a package which is not installed" in missing.message
    assert "pip install" in missing.hint


@pytest.mark.parametrize(("method", "package"), [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("compressed-tensors", "compressed-tensors")])
def test_that_weights_are_unpacked_is_said_with_the_package_that_computes_otherwise(method: str, package: str) -> None:
    stored = stored_quantization({"quantization_config": {"quant_method": method, "bits": 4}})
    note = stored_note(stored, "none", "bfloat16", 2_600_000_000)
    assert note is not None
    assert (note.level, "unpacked to bfloat16 as they are read: 2.6 GB" in note.message, package in note.hint) == ("note", True, True)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    save_packed_model(tmp_path / "packed", "gptq")
    file = tmp_path / "packed/model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.layers.1.mlp.up_proj.scales")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.scales"):
        read_facts(tmp_path / "packed")


def test_weights_unpacked_can_be_held_in_other_four_bits(tmp_path: Path) -> None:
    save_packed_model(tmp_path / "packed", "fp8")
    model = load_model(tmp_path / "packed", torch.bfloat16, CPU, "nf4")
    assert len(held(model)) == 14
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
        ("unsloth/gemma-3-4b-it-unsloth-bnb-4bit", "unsloth/gemma-3-4b-it"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-8B-FP8", "Qwen/Qwen3-8B"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-FP8-dynamic", "RedHatAI/Meta-Llama-3.1-8B-Instruct"),
        ("neuralmagic/Mistral-7B-Instruct-v0.3-quantized.w4a16", "neuralmagic/Mistral-7B-Instruct-v0.3"),
        ("openai/gpt-oss-20b", ""),
        ("Qwen/Qwen3-4B", ""),
        ("4bit", ""),
    ],
)
def test_the_name_in_full_precision_is_what_is_left_without_its_ending(name: str, wanted: str) -> None:
    assert named_in_full_precision(name) == wanted


def test_of_a_folder_the_neighbour_or_else_the_model_card_tells(tmp_path: Path) -> None:
    folder = tmp_path / "tiny-bnb-4bit"
    folder.mkdir()
    assert full_precision_of(str(folder), folder) == ""
    (folder / "README.md").write_text("---\nbase_model:\n- some/tiny\n---\n")
    assert full_precision_of(str(folder), folder) == "some/tiny"
    (tmp_path / "tiny").mkdir()
    assert full_precision_of(str(folder), folder) == str(tmp_path / "tiny")


def test_text_models_inside_others_say_it_too() -> None:
    found = stored_quantization({"text_config": {"quantization_config": {"quant_method": "fp8"}}})
    assert found is not None
    assert found.layout == "fp8"


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("quanto_qmap.json", "Quanto"),
        ("weight._data", "Quanto"),
        ("_weight_qdata", "TorchAO"),
        ("W_q", "HQQ"),
        ("qweight", "GPTQ or AWQ of which config.json says nothing"),
    ],
)
def test_a_folder_that_shows_by_its_files_alone_how_it_is_quantized_is_refused_by_name(ending: str, said: str, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny-int8")
    save_tiny_model(tmp_path / "tiny")
    if ending.endswith(".json"):
        (folder / ending).write_text("{}")
    else:
        tensors = load_file(folder / "model.safetensors")
        named = {name: name.removesuffix("weight") + ending if "q_proj" in name else name for name in tensors}
        save_file({named[name]: tensor for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    found = stored_finding(read_facts(folder).stored, "none", "cpu")
    assert found is not None
    assert f"weights quantized by {said} are not read here" in found.message
    assert found.hint == "Choose the model in full precision, tiny."
    for use in (lambda: load_model(folder, torch.float32, CPU), lambda: open_tensors(folder)):
        with pytest.raises(InputError, match=f"quantized by {said}"):
            use()
