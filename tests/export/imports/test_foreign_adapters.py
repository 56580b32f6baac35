"""Adapters as other programs write them: taken in, they do to the base just what they did there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.export.imports.importer import import_task
from lora_studio.export.redact import last_part
from lora_studio.models.full_precision import named_in_full_precision
from tests.export.adapters import logits, make_adapter, run_export, targets_of, with_adapter
from tests.export.handmade import write_adapter
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
Tiny = Callable[[str], Path]
SIZES = {"q_proj": (32, 32), "v_proj": (16, 32)}


def imported(path: Path, **arguments: Any) -> dict[str, Any]:
    last: Any = list(import_task(TaskContext(), str(path), **arguments))[-1]
    return last.result


def codes(result: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in result["findings"]]


def write_mlx(
    folder: Path, base: Path | str, *, layers: tuple[int, ...] = (1,), r: int = 3, dtype: torch.dtype = torch.float32, **changes: Any
) -> dict[str, Tensor]:
    """Write an adapter as mlx-lm does, on the query and value projections of some layers."""
    folder.mkdir()
    torch.manual_seed(3)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        for module, (rows, columns) in SIZES.items():
            name = f"model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_a"] = (0.2 * torch.randn(columns, r)).to(dtype)
            tensors[f"{name}.lora_b"] = (0.2 * torch.randn(r, rows)).to(dtype)
            if changes.get("fine_tune_type") == "dora":
                tensors[f"{name}.m"] = (0.5 + torch.rand(rows)).to(dtype)
    save_file(tensors, folder / "adapters.safetensors")
    config = {
        "model": str(base),
        "fine_tune_type": "lora",
        "num_layers": len(layers),
        "iters": 600,
        "batch_size": 4,
        "lora_parameters": {"rank": r, "dropout": 0.0, "scale": 7.0, "keys": [f"self_attn.{name}" for name in SIZES]},
        **changes,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def plain(base: Path, tensors: dict[str, Tensor], scale: float) -> Tensor:
    """Return the logits of the base with W + scale·(A·B)ᵀ in each weight's place, of DoRA with its rows' lengths."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name in (name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")):
            module = model.get_submodule(name)
            weight, update = module.weight, scale * (tensors[f"{name}.lora_a"].float() @ tensors[f"{name}.lora_b"].float())
            weight += update if isinstance(module, torch.nn.Embedding) else update.T
            if f"{name}.m" in tensors:
                weight *= (tensors[f"{name}.m"] / weight.norm(dim=1))[:, None]
    return logits(model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": (0, 1)},
        {"dtype": torch.bfloat16},
        {"fine_tune_type": "dora"},
        {"r": 5, "lora_layers": 1},
    ],
)
def test_an_adapter_of_mlx_lm_does_what_it_did_there(changes: dict[str, Any], tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    tensors = write_mlx(tmp_path / "mlx", base, **changes)
    told = imported(tmp_path / "mlx")
    assert (told["base"], codes(told)) == (str(base), ["from_mlx"])
    expected = plain(base, tensors, 7.0)
    assert (logits(with_adapter(base, Path(told["path"]))) - expected).abs().max() < 1e-5
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2
    kept = load_file(Path(told["path"]) / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(kept[f"base_model.model.{name}.lora_A.weight"], tensors[f"{name}.lora_a"].T)


def test_what_was_imported_from_mlx_lm_merges(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    tensors = write_mlx(tmp_path / "mlx", base)
    told = run_export(source=imported(tmp_path / "mlx")["path"], kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["verdict"] == "exact"
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - plain(base, tensors, 7.0)).abs().max() < 1e-5


def test_experts_of_mlx_lm_become_the_fused_ones(tiny_model: Tiny, tmp_path: Path) -> None:
    """`switch_mlp` holds one A and B for each expert: experts × r × in, experts × out × r."""
    base = tiny_model("qwen3_moe")
    write_mlx(tmp_path / "mlx", base)
    torch.manual_seed(3)
    sizes = {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}
    tensors: dict[str, Tensor] = {}
    for which, (rows, columns) in sizes.items():
        tensors[f"model.layers.1.mlp.switch_mlp.{which}.lora_a"] = 0.2 * torch.randn(4, 3, columns)
        tensors[f"model.layers.1.mlp.switch_mlp.{which}.lora_b"] = 0.2 * torch.randn(4, rows, 3)
    save_file(tensors, tmp_path / "mlx/adapters.safetensors")
    told = imported(tmp_path / "mlx")
    assert sorted(codes(told)) == ["from_mlx", "fused_experts"]
    switch = "model.layers.1.mlp.switch_mlp"
    updates = {which: 7.0 * tensors[f"{switch}.{which}.lora_b"] @ tensors[f"{switch}.{which}.lora_a"] for which in sizes}
    expected = with_experts(base, 1, updates)
    assert (logits(with_adapter(base, Path(told["path"]))) - expected).abs().max() < 1e-5


def with_experts(base: Path, layer: int, updates: dict[str, Tensor]) -> Tensor:
    """Return the logits of the base with experts × out × in added to its experts."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    experts = model.model.layers[layer].mlp.experts
    with torch.no_grad():
        experts.gate_up_proj += torch.cat([updates["gate_proj"], updates["up_proj"]], dim=1)
        experts.down_proj += updates["down_proj"]
    return logits(model)


def test_single_experts_of_transformers_4_become_the_fused_ones(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("qwen3_moe")
    folder = tmp_path / "mine"
    folder.mkdir()
    torch.manual_seed(3)
    tensors: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    for which, (rows, columns) in {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}.items():
        a, b = 0.2 * torch.randn(4, 2, columns), 0.2 * torch.randn(4, rows, 2)
        updates[which] = 3.0 * b @ a
        for expert in range(4):
            name = f"base_model.model.model.layers.0.mlp.experts.{expert}.{which}"
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a[expert].clone(), b[expert].clone()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": 2,
                "lora_alpha": 6,
                "base_model_name_or_path": str(base),
                "target_modules": ["gate_proj", "up_proj", "down_proj"],
            }
        )
    )
    told = imported(folder)
    assert codes(told) == ["fused_experts"]
    expected = with_experts(base, 0, updates)
    assert (logits(with_adapter(base, Path(told["path"]))) - expected).abs().max() < 1e-5
    exported = run_export(source=told["path"], kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert exported["certificate"]["verdict"] == "exact"
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - expected).abs().max() < 1e-5


RENAMINGS: dict[str, Callable[[str], str]] = {
    "adapter name": lambda name: name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
    "another adapter name": lambda name: name.replace(".lora_A.", ".lora_A.v_2.").replace(".lora_B.", ".lora_B.v_2."),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "half a prefix": lambda name: name.removeprefix("base_model.model.").replace("model.layers", "base_model.model.layers"),
    "distributed": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "compiled layers": lambda name: name.replace("self_attn", "_orig_mod.self_attn"),
    "sharded": lambda name: name.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
    "another parent": lambda name: name.replace("base_model.model.model.", "base_model.model.model.language_model."),
    "the decoder alone": lambda name: name.replace("base_model.model.model.", "base_model.model."),
}


@pytest.mark.parametrize("how", RENAMINGS)
@pytest.mark.parametrize("settings", [{}, {"use_dora": True, "modules_to_save": ["lm_head"]}], ids=["plain", "more"])
def test_keys_of_another_spelling_are_renamed(how: str, settings: dict[str, Any], tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    sound = make_adapter(base, tmp_path / "sound", **targets_of("llama"), **settings)
    expected = logits(with_adapter(base, sound))
    folder = shutil.copytree(sound, tmp_path / "mine")
    tensors = {RENAMINGS[how](name): tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    told = imported(folder)
    assert "renamed_keys" in codes(told)
    assert torch.equal(logits(with_adapter(base, Path(told["path"]))), expected)


def test_several_adapters_in_one_file_are_refused_by_name(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = make_adapter(tiny_model("llama"), tmp_path / "mine", **targets_of("llama"))
    tensors = {
        name.replace(".lora_A.", f".lora_A.{which}.").replace(".lora_B.", f".lora_B.{which}."): tensor + 0
        for name, tensor in load_file(folder / "adapter_model.safetensors").items()
        for which in ("one", "two")
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="holds 2 adapters: one, two"):
        imported(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fine_tune_type": "full"}, "no LoRA but whole layers"),
        ({"lora_parameters": {"rank": 3}}, "names no scale"),
        ({"lora_parameters": None}, "names no scale"),
    ],
)
def test_what_mlx_lm_wrote_and_is_no_lora_is_refused_with_its_name(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    write_mlx(tmp_path / "mlx", "somebody/tiny", **changes)
    with pytest.raises(InputError, match=f"written by mlx-lm.*{told}") as raised:
        imported(tmp_path / "mlx")
    assert raised.value.hint


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["lit_model.pth.lora", "model_config.yaml"], "litgpt"),
        (["adapter_0.pt", "recipe_state.pt"], "torchtune"),
        (["adapter_config.json", "adapter_model.pt"], "torchtune"),
        (["adapters.safetensors"], "mlx-lm"),
    ],
)
def test_what_cannot_be_taken_names_the_program_that_wrote_it_and_the_way_out(files: list[str], told: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError) as raised:
        imported(tmp_path)
    assert told in raised.value.hint


def test_an_adapter_as_torchtune_writes_it_in_safetensors_is_imported(tiny_model: Tiny, tmp_path: Path) -> None:
    """Its settings are four keys, and name neither task nor dropout; its own pickle lies beside."""
    base = save_tiny_model(tmp_path / "base", "llama")
    folder = make_adapter(base, tmp_path / "mine", **targets_of("llama"))
    expected = logits(with_adapter(base, folder))
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "peft_type": "LORA", "base_model_name_or_path": str(base)}
        )
    )
    (folder / "adapter_model.pt").write_bytes(b"x")
    told = imported(folder)
    assert codes(told) == ["files_left"]
    assert torch.equal(logits(with_adapter(base, Path(told["path"]))), expected)


def as_torchtune_writes(folder: Path, base: Path, *, its_own: bool) -> Path:
    """Leave an adapter the settings that torchtune writes, and its own file beside or not."""
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "peft_type": "LORA", "base_model_name_or_path": str(base)}
        )
    )
    if its_own:
        (folder / "adapter_model.pt").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("its_own", [True, False])
def test_rows_that_torchtune_mixes_up_are_told(its_own: bool, tiny_model: Tiny, tmp_path: Path) -> None:
    """Query and key of qwen are not turned in torchtune, but turned back; where it is not certain who wrote it, a warning has to do."""
    base = tiny_model("qwen3")
    folder = as_torchtune_writes(make_adapter(base, tmp_path / "mine", **targets_of("qwen3")), base, its_own=its_own)
    if its_own:
        with pytest.raises(InputError, match=r"written by torchtune.*mixes up the rows") as raised:
            imported(folder)
        assert "adapter extract" in raised.value.hint
    else:
        assert codes(imported(folder)) == ["torchtune_rows"]


def test_lengths_of_a_dora_that_does_not_say_so_are_not_left_out_in_silence(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    made = make_adapter(base, tmp_path / "mine", **targets_of("llama"), use_dora=True)
    with pytest.raises(InputError, match="do not say use_dora") as raised:
        imported(as_torchtune_writes(made, base, its_own=True))
    assert "torchtune" in raised.value.hint


@pytest.mark.parametrize(
    ("named", "full"),
    [
        ("nvidia/Llama-3.1-8B-Instruct-NVFP4", "Llama-3.1-8B-Instruct"),
        ("org/Model-HQQ-4bit", "Model"),
        ("org/Model-4bit-hqq", "Model"),
        ("org/model-mlx-4bit", "model"),
        ("org/model-GPTQ-4bit-128g", "model"),
        ("meta/model-dynamic-bnb-4bit", "model"),
        ("org/Llama-2-7b-AQLM-2Bit-1x16-hf", "Llama-2-7b"),
        ("org/model-int4-awq", "model"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen3-8B"),
        ("unsloth/llama-3-8b-Instruct-bnb-4bit", "llama-3-8b-Instruct"),
        ("mlx-community/Qwen2.5-7B-Instruct-4bit", "Qwen2.5-7B-Instruct"),
        ("TheBloke/Mistral-7B-v0.1-GPTQ", "Mistral-7B-v0.1"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen2.5-7B-Instruct"),
        ("Qwen/Qwen3-8B-FP8", "Qwen3-8B"),
        ("Qwen/Qwen3-8B", ""),
        ("meta-llama/Llama-2-7b-hf", ""),
        ("microsoft/bitnet-b1.58-2B-4T", ""),
    ],
)
def test_the_full_precision_of_a_quantized_model_is_read_from_its_name(named: str, full: str) -> None:
    assert last_part(named_in_full_precision(named)) == full


def test_a_base_named_in_few_bits_is_asked_for_in_full_precision(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path="unsloth/tiny-llama-bnb-4bit")
    with pytest.raises(InputError) as raised:
        imported(folder)
    assert raised.value.field == "base"
    assert "Give the model in full precision, tiny-llama" in raised.value.hint


def test_the_full_precision_of_a_base_in_few_bits_is_taken_where_it_is_here(
    tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub/models--somebody--tiny-llama/snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(tiny_model("llama"), snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("ab" * 20)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    told = imported(write_adapter(tmp_path / "mine", base_model_name_or_path="unsloth/Tiny-Llama-unsloth-bnb-4bit"))
    assert (told["base"], codes(told)[0]) == ("somebody/tiny-llama", "full_precision_base")
