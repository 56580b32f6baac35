"""GGUF exports of models as they come from the Hub: rotary factors, buffers among the weights, settings under older names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.gguf import export
from lora_studio.export.gguf.check import check_gguf_tensors
from lora_studio.export.gguf.llama_check import llama_available
from lora_studio.export.gguf.model import write_gguf_model
from lora_studio.export.gguf.names import ROPE_FACTORS, GgufNames
from lora_studio.models.gguf_header import read_gguf
from tests.export.adapters import make_adapter, run_export, targets_of
from tests.export.gguf.models import LLAMA3_ROPE, outcome, save_gguf_base

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not llama_available(), reason="xllamacpp is not installed"),
    pytest.mark.usefixtures("converter"),
]


def change_weights(folder: Path, change: Any) -> None:
    """Write a model's weights again, changed."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def as_gpt2_of_the_hub(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name weights as OpenAI's files do, with the masks among them."""
    named = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    return {**named, **{f"h.{layer}.attn.bias": torch.tril(torch.ones(1, 1, 256, 256)) for layer in range(2)}}


def with_frequencies(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Put in the buffer that llama's first files have."""
    return {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}


def hub_like(kind: str, folder: Path, starter: Path) -> tuple[Path, dict[str, Any]]:
    """Make a base as one finds it on the Hub, and give what to adapt of it."""
    match kind:
        case "llama 3":
            return save_gguf_base(folder, starter, "llama", rope_parameters=LLAMA3_ROPE), targets_of("llama")
        case "gpt2 with masks":
            change_weights(save_gguf_base(folder, starter, "gpt2"), as_gpt2_of_the_hub)
            return folder, targets_of("gpt2")
        case "llama with frequencies":
            change_weights(save_gguf_base(folder, starter, "llama"), with_frequencies)
            return folder, targets_of("llama")
        case "llama with biases":
            base = save_gguf_base(folder, starter, "llama", attention_bias=True, head_dim=12)
            return base, {"target_modules": ["q_proj", "k_proj", "o_proj"]}
        case "embeddings":
            return save_gguf_base(folder, starter, "llama"), {"target_modules": ["embed_tokens", "lm_head", "k_proj"]}
        case _:
            return save_gguf_base(folder, starter, kind), targets_of(kind)


@pytest.mark.parametrize("form", ["gguf", "gguf-adapter"])
@pytest.mark.parametrize(
    "kind", ["llama 3", "gpt2 with masks", "llama with frequencies", "llama with biases", "embeddings", "mistral", "gpt_neox"]
)
def test_models_as_the_hub_has_them_answer_in_llama_cpp_as_base_and_adapter(
    kind: str, form: str, starter_folder: Path, tmp_path: Path
) -> None:
    base, settings = hub_like(kind, tmp_path / "base", starter_folder)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    more = {"outtype": "f32"} if form == "gguf" else {}
    certificate = run_export(source=str(adapter), kind=form, to=str(tmp_path / "made"), **more)["certificate"]
    assert (certificate["verdict"], certificate["grade"]) == ("exact", "logits")
    assert certificate["max_abs_logit_difference"] <= 0.01
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "home", "made"]  # nothing was left beside the base


def test_llama_3_is_the_converters_own_file_byte_for_byte(starter_folder: Path, converter: Path, tmp_path: Path) -> None:
    base = save_gguf_base(tmp_path / "base", starter_folder, "llama", rope_parameters=LLAMA3_ROPE)
    outcome(write_gguf_model(TaskContext(), base, tmp_path / "ours.gguf", "f16", "Base"))
    command = [sys.executable, "-P", converter / "convert_hf_to_gguf.py", base, "--outtype", "f16", "--outfile", tmp_path / "theirs.gguf"]
    environment = {**os.environ, "PYTHONPATH": str(converter), "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(part) for part in command], env=environment, check=True, capture_output=True)
    assert read_gguf(tmp_path / "ours.gguf").tensors == read_gguf(tmp_path / "theirs.gguf").tensors
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_wrong_rotary_factors_are_seen_among_the_tensors(starter_folder: Path, tmp_path: Path) -> None:
    base = save_gguf_base(tmp_path / "base", starter_folder, "llama", rope_parameters=LLAMA3_ROPE)
    outcome(write_gguf_model(TaskContext(), base, tmp_path / "right.gguf", "f32"))
    assert check_gguf_tensors(base, tmp_path / "right.gguf").wrong == []
    for name, factors in (("wrong", {**LLAMA3_ROPE, "factor": 4.0}), ("missing", {"rope_type": "default", "rope_theta": 10000.0})):
        other = save_gguf_base(tmp_path / name, starter_folder, "llama", rope_parameters=factors)
        outcome(write_gguf_model(TaskContext(), other, tmp_path / f"{name}.gguf", "f32"))
        assert check_gguf_tensors(base, tmp_path / f"{name}.gguf").wrong == [ROPE_FACTORS]


def test_one_changed_value_is_seen_wherever_it_is(starter_folder: Path, tmp_path: Path) -> None:
    base = save_gguf_base(tmp_path / "base", starter_folder, "llama")
    whole, file = tmp_path / "whole.gguf", tmp_path / "changed.gguf"
    outcome(write_gguf_model(TaskContext(), base, whole, "f16"))
    header = read_gguf(whole)
    for name in ("token_embd.weight", "blk.1.attn_k.weight", "output_norm.weight"):
        shutil.copy(whole, file)
        tensor = next(tensor for tensor in header.tensors if tensor.name == name)
        with file.open("rb+") as changed:
            changed.seek(header.data_start + tensor.offset + tensor.bytes - 1)  # the last value's sign and size
            last = changed.read(1)
            changed.seek(-1, os.SEEK_CUR)
            changed.write(bytes([last[0] ^ 0x80]))
        assert check_gguf_tensors(base, file).wrong == [name]


def test_the_file_names_base_and_adapter_and_guesses_nothing(starter_folder: Path, tmp_path: Path) -> None:
    base = save_gguf_base(tmp_path / "tiny-base", starter_folder, "llama")
    adapter = make_adapter(base, tmp_path / "mails", **targets_of("llama"))
    run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="f16", check="tensors")
    (file,) = (tmp_path / "made").glob("*.gguf")
    settings = read_gguf(file).settings
    assert settings["general.name"] == "tiny-base mails"
    assert not {"general.finetune", "general.basename", "general.version", "general.organization"} & settings.keys()


def test_another_way_to_make_tokens_is_seen_though_the_weights_are_right(
    starter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = export.write_gguf_model

    def otherwise(context: TaskContext, folder: Path, target: Path, *more: str) -> Any:
        yield from sound(context, folder, target, *more)
        raw = target.read_bytes()
        assert raw.count(b"smollm") == 1
        target.write_bytes(raw.replace(b"smollm", b"falcon"))  # tokenizer.ggml.pre, of the same length

    monkeypatch.setattr(export, "write_gguf_model", otherwise)
    base = save_gguf_base(tmp_path / "base", starter_folder, "llama")
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))
    with pytest.raises(StudioError, match=r"llama\.cpp splits .* texts into other tokens"):
        run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="f32")


def test_settings_that_name_no_layers_are_told_of() -> None:
    with pytest.raises(InputError, match="does not say its num_hidden_layers"):
        GgufNames({"model_type": "llama"})
    assert GgufNames({"model_type": "mpt", "n_layers": 2}).of("transformer.wte.weight") == "token_embd.weight"
