"""Exports of every architecture, loaded again by plain peft and plain transformers; planted faults are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import Phase
from lora_studio.export import task
from tests.export.adapters import PLAIN, TARGETS, logits, make_adapter, run_export
from tests.tiny import ARCHITECTURES, save_tiny_model


@pytest.fixture(scope="module")
def llama_adapter(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tiny_model("llama"), tmp_path_factory.mktemp("adapter") / "lora", **PLAIN)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exports_loaded_by_plain_libraries_answer_as_base_and_adapter(
    architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "made", **TARGETS.get(architecture, PLAIN))
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    assert (expected - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2  # the adapter does something

    told = run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "adapter"))
    assert told["certificate"]["verdict"] == "exact"
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert (logits(again) - expected).abs().max() <= 1e-4

    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["verdict"] == "exact"
    assert told["certificate"]["max_abs_logit_difference"] <= 1e-4
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(merged) - expected).abs().max() <= 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == AutoTokenizer.from_pretrained(base).chat_template


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2}, "alpha_pattern": {"down_proj": 32}},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only", "lora_bias": True},
    ],
)
def test_variants_of_lora_merge_to_what_they_were(settings: dict[str, Any], tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    if settings.get("lora_bias"):
        base = save_tiny_model(tmp_path / "with_bias", "llama", attention_bias=True, mlp_bias=True)
        settings = {"lora_bias": True}
    adapter = make_adapter(base, tmp_path / "made", **PLAIN, **settings)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_a_head_trained_apart_from_its_tied_embedding_is_untied_in_the_merge(
    architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "made", **TARGETS.get(architecture, PLAIN), modules_to_save=["lm_head"])
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))
    run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.tie_word_embeddings is False
    assert (logits(merged) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("architecture", "target"), [("qwen3", "lm_head"), ("qwen3", "embed_tokens"), ("gpt2", "wte")])
def test_an_adapter_on_a_tied_weight_is_not_merged(
    architecture: str, target: str, dtype: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_model(architecture), tmp_path / "made", target_modules=[target])
    with pytest.raises(InputError, match=f"{target} is tied to .*would merge wrongly"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype=dtype)
    assert run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "adapter"))["certificate"]["passed"]


def test_an_adapter_on_an_embedding_merges_beside_a_head_trained_whole(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model("qwen3"), tmp_path / "made", target_modules=["embed_tokens"], modules_to_save=["lm_head"])
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="bfloat16")
    assert told["certificate"]["exact_logit_difference"] <= 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_smaller_dtype_is_the_rounding_of_the_exact_sum_and_says_its_cost(dtype: str, llama_adapter: Path, tmp_path: Path) -> None:
    told = run_export(source=str(llama_adapter), kind="merged", to=str(tmp_path / "small"), dtype=dtype)
    run_export(source=str(llama_adapter), kind="merged", to=str(tmp_path / "exact"), dtype="float32")
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "exact", dtype=torch.float32).state_dict()
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype="auto").state_dict()
    for name, tensor in exact.items():
        assert torch.equal(tensor.to(getattr(torch, dtype)), small[name]), name
    assert told["certificate"]["verdict"] == "rounded"
    assert told["certificate"]["exact_logit_difference"] <= 1e-4 < told["certificate"]["max_abs_logit_difference"]
    assert 0 < told["certificate"]["effect_lost"] < 1


def test_without_a_dtype_the_merge_keeps_the_base_models(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama")
    AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "made", **PLAIN)
    assert run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"))["dtype"] == "bfloat16"


@pytest.mark.parametrize("stored", ["float64", "float8_e4m3fn"])
def test_a_base_in_a_dtype_that_is_not_written_is_merged_in_float32(stored: str, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "made", **PLAIN)
    tensors = {name: tensor.to(getattr(torch, stored)) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"))
    assert (told["dtype"], told["certificate"]["verdict"]) == ("float32", "exact")


def test_the_artefact_carries_its_certificate_and_a_card(llama_adapter: Path, tmp_path: Path) -> None:
    told = run_export(source=str(llama_adapter), kind="merged", to=str(tmp_path / "merged"))
    assert json.loads((tmp_path / "merged/certificate.json").read_text()) == told["certificate"]
    card = (tmp_path / "merged/README.md").read_text()
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "| `r` | 4 |" in card
    assert str(tmp_path) not in card


def test_an_earlier_export_is_replaced_only_when_asked_and_whole(llama_adapter: Path, tmp_path: Path) -> None:
    target = tmp_path / "exports/there"
    run_export(source=str(llama_adapter), kind="adapter", to=str(target))
    (target / "note.txt").write_text("of the first")
    with pytest.raises(InputError, match="exists already"):
        run_export(source=str(llama_adapter), kind="adapter", to=str(target))
    assert (target / "note.txt").exists()
    run_export(source=str(llama_adapter), kind="adapter", to=str(target), overwrite=True)
    assert not (target / "note.txt").exists()
    assert [path.name for path in target.parent.iterdir()] == ["there"]


def test_what_appears_at_the_target_meanwhile_is_not_replaced(llama_adapter: Path, tmp_path: Path) -> None:
    target = tmp_path / "exports/there"
    events = task.export(TaskContext(), str(llama_adapter), "adapter", str(target), overwrite=True)
    with pytest.raises(InputError, match="no earlier export"):  # noqa: PT012 - another writes while the task works
        for event in events:
            if isinstance(event, Phase) and event.message == "Writing to disk":
                target.mkdir(parents=True)
                (target / "precious.txt").write_text("mine")
    assert (target / "precious.txt").exists()
    assert [path.name for path in target.parent.iterdir()] == ["there"]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_cancelled_export_leaves_nothing(kind: str, llama_adapter: Path, tmp_path: Path) -> None:
    context, exports = TaskContext(), tmp_path / "exports"
    events = task.export(context, str(llama_adapter), kind, str(exports / "out"))
    with pytest.raises(Cancelled):  # noqa: PT012 - the task is stopped once it works beside its target
        for event in events:
            if isinstance(event, Phase) and event.name in ("merging", "checking") and any(exports.iterdir()):
                context.control.stop()
    assert list(exports.iterdir()) == []


def test_an_adapter_of_another_base_is_refused_with_the_reason(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    wide = save_tiny_model(tmp_path / "wide", "llama", hidden_size=64, intermediate_size=80)
    adapter = make_adapter(wide, tmp_path / "made", **PLAIN)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny_model("llama"))}))
    with pytest.raises(InputError, match="does not fit this base model"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "onnx"}, "no export as 'onnx'"),
        ({"kind": "merged", "dtype": "int3"}, "int3"),
        ({"kind": "adapter", "dtype": "float32"}, "trained in"),
    ],
)
def test_requests_that_cannot_be_met_say_what_can(arguments: dict[str, str], told: str, llama_adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        run_export(source=str(llama_adapter), to=str(tmp_path / "out"), **arguments)


def test_a_merged_folder_has_the_names_that_older_programs_read(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama", rope_parameters={"rope_type": "default", "rope_theta": 70000.0})
    assert "rope_theta" not in json.loads((base / "config.json").read_text())
    adapter = make_adapter(base, tmp_path / "made", **PLAIN)
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="bfloat16")
    config, settings = (json.loads((tmp_path / "merged" / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    assert (config["rope_theta"], config["rope_scaling"], config["torch_dtype"], config["dtype"]) == (70000.0, None, "bfloat16", "bfloat16")
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["chat_template"] == (tmp_path / "merged" / "chat_template.jinja").read_text()
    assert any("transformers 4.57.6" in entry["reason"] for entry in told["compatibility"])
    assert "transformers 4.57.6" in (tmp_path / "merged" / "README.md").read_text()


def test_a_tokenizer_that_splits_otherwise_is_refused(
    tiny_model: Callable[[str], Path], llama_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = task.copy_tokenizer_files

    def copy_wrongly(base: Path, adapter: Path, folder: Path, tokenizer_files: Any) -> None:
        copy(base, adapter, folder, tokenizer_files)
        parts = json.loads((folder / "tokenizer.json").read_text())
        parts["model"]["merges"] = parts["model"]["merges"][1:]
        (folder / "tokenizer.json").write_text(json.dumps(parts))

    monkeypatch.setattr(task, "copy_tokenizer_files", copy_wrongly)
    with pytest.raises(StudioError, match="splits a text otherwise"):
        run_export(source=str(llama_adapter), kind="merged", to=str(tmp_path / "merged"), check="tensors")
