"""GGUF of adapters whose base is quantized in its own files: made of its weights unpacked, with a certificate that says so."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from lora_studio.export.gguf.llama_check import llama_available
from lora_studio.models.gguf_header import read_gguf
from lora_studio.models.gguf_tensors import map_tensor, unpack
from lora_studio.models.load import load_model
from tests.export.adapters import logits, make_adapter, run_export
from tests.export.gguf.models import STARTER_IDS
from tests.models.packed_folders import BITSANDBYTES, save_bitsandbytes, save_gpt_oss, save_packed_model
from tests.models.quantized import held, numbers_of, unpacked

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not llama_available(), reason="xllamacpp is not installed"),
    pytest.mark.usefixtures("converter"),
]
PACKED = {"nf4": "llama", "int8": "llama", "gptq": "qwen3", "awq": "llama", "fp8": "llama"}
Bases = Callable[[str], Path]


@pytest.fixture(scope="module")
def packed_bases(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bases:
    """Tiny quantized models with the starter's tokenizer; `<folder>-plain` beside each holds what it stands for, or was made of."""
    made: dict[str, Path] = {}

    def base(kind: str) -> Path:
        if kind not in made:
            folder = made[kind] = tmp_path_factory.mktemp("packed") / kind
            if kind == "mxfp4":
                save_gpt_oss(folder, STARTER_IDS["vocab_size"])
            else:
                save = save_bitsandbytes if kind in BITSANDBYTES else save_packed_model
                save(folder, kind, PACKED[kind], **STARTER_IDS)
            for one in (folder, folder.with_name(f"{kind}-plain")):
                for path in (*starter_folder.glob("*token*"), starter_folder / "chat_template.jinja"):
                    shutil.copy(path, one)
        return made[kind]

    return base


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter that names the quantized model as its base."""
    make_adapter(base.with_name(f"{base.name}-plain"), folder, **{"target_modules": ["q_proj", "down_proj"], **settings})
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    return folder


def tensor_of(file: Path, name: str) -> torch.Tensor:
    header = read_gguf(file)
    entry = next(tensor for tensor in header.tensors if tensor.name == name)
    return torch.from_numpy(unpack(map_tensor(file, header, entry), entry.dtype).astype(np.float32))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def meant_weight(base: Path, kind: str) -> torch.Tensor:
    """Return what the packed numbers of a layer stand for, by a sum of the tests' own."""
    if kind not in BITSANDBYTES:
        return load_file(base.with_name(f"{kind}-plain") / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    model = load_model(base, torch.float32, torch.device("cpu"))
    layer = held(model)["model.layers.1.mlp.down_proj"]
    if kind == "int8":
        return unpacked(layer)
    state = copy.copy(layer.weight.quant_state)
    state.dtype = torch.float32  # it was quantized from bfloat16, to which nothing is rounded in a file of float32
    return numbers_of(layer.weight.data, state)


def update(base: Path, adapter: Path) -> torch.Tensor:
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.with_name(f"{base.name}-plain")), str(adapter))
    return model.base_model.model.model.layers[1].mlp.down_proj.get_delta_weight("default").detach()


@pytest.mark.parametrize("kind", PACKED)
def test_a_model_is_made_of_the_weights_unpacked_and_runs_as_base_and_adapter(kind: str, packed_bases: Bases, tmp_path: Path) -> None:
    base = packed_bases(kind)
    result = run_export(source=str(adapter_of(base, tmp_path / "adapter")), kind="gguf", to=str(tmp_path / "made"), outtype="f32")
    told = result["certificate"]
    assert (told["verdict"], told["grade"]) == ("exact", "logits")
    assert told["loaded_by"].startswith("llama.cpp")
    assert told["trained_base"]["compared_with"] == f"{kind}, unpacked to float32"
    assert told["trained_base"]["max_abs_logit_difference"] == 0  # from base + adapter as it was trained
    assert "full_precision" not in told["trained_base"]
    written = tensor_of(next((tmp_path / "made").glob("*.gguf")), "blk.1.ffn_down.weight")
    torch.testing.assert_close(written, meant_weight(base, kind) + update(base, tmp_path / "adapter"), rtol=1e-5, atol=1e-6)


def test_experts_in_mxfp4_are_written_as_the_numbers_they_stand_for(packed_bases: Bases, tmp_path: Path) -> None:
    base = packed_bases("mxfp4")
    adapter = adapter_of(base, tmp_path / "adapter", target_modules=["q_proj"])
    told = run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "made"), outtype="f32")["certificate"]
    assert (told["verdict"], told["grade"]) == ("exact", "logits")
    assert told["trained_base"]["compared_with"] == "mxfp4, unpacked to float32"
    meant = load_file(base.with_name("mxfp4-plain") / "model.safetensors")["model.layers.1.mlp.experts.down_proj"]
    written = tensor_of(next((tmp_path / "made").glob("*.gguf")), "blk.1.ffn_down_exps.weight")
    torch.testing.assert_close(written, meant.transpose(1, 2), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["nf4", "gptq"])
def test_an_adapter_is_run_on_the_base_unpacked(kind: str, packed_bases: Bases, tmp_path: Path) -> None:
    base = packed_bases(kind)
    result = run_export(source=str(adapter_of(base, tmp_path / "adapter")), kind="gguf-adapter", to=str(tmp_path / "made"))
    told = result["certificate"]
    assert (told["verdict"], told["grade"]) == ("exact", "logits")
    assert told["loaded_by"].startswith("llama.cpp")
    assert told["max_abs_logit_difference"] < 1e-3
    assert told["trained_base"]["compared_with"] == f"{kind}, unpacked to float32"
    assert f"{kind}, unpacked to float32" in (tmp_path / "made/certificate.html").read_text()
    assert sorted(path.suffix for path in (tmp_path / "made").iterdir() if path.suffix != ".json") == ["", ".gguf", ".html", ".md"]


def test_what_the_base_was_quantized_from_is_told_with_how_far_it_is_where_it_is_here(packed_bases: Bases, tmp_path: Path) -> None:
    original = shutil.copytree(packed_bases("nf4").with_name("nf4-plain"), tmp_path / "tiny")
    base = shutil.copytree(packed_bases("nf4"), tmp_path / "tiny-bnb-4bit")
    adapter = adapter_of(packed_bases("nf4"), tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    told = run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "unpacked"), outtype="f32")["certificate"]["trained_base"]
    assert told["full_precision"]["name"] == "tiny"
    assert 0.03 < told["full_precision"]["weights_apart"] < 0.15
    assert "It is merged into tiny-bnb-4bit, unpacked to float32. The base was quantized from tiny;" in card(tmp_path / "unpacked")
    assert "The base was quantized from tiny" in (tmp_path / "unpacked/certificate.html").read_text()

    into = run_export(source=str(adapter), kind="gguf", to=str(tmp_path / "original"), outtype="f32", into="original")["certificate"]
    assert into["trained_base"]["compared_with"] == "tiny, in full precision"
    assert into["trained_base"]["weights_apart"] == told["full_precision"]["weights_apart"]
    assert "It is merged into tiny, in full precision, whose weights differ from those by" in card(tmp_path / "original")
    trained = PeftModel.from_pretrained(load_model(base, torch.float32, torch.device("cpu")), str(adapter))
    meant = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(original), str(adapter))
    assert 0.2 < into["trained_base"]["max_abs_logit_difference"] / float((logits(trained) - logits(meant)).abs().max()) < 5
    assert into["trained_base"]["kl_divergence"] > 0


def test_what_llama_cpp_does_not_take_is_refused_before_anything_is_unpacked(packed_bases: Bases, tmp_path: Path) -> None:
    adapter = adapter_of(packed_bases("mxfp4"), tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(InputError, match="family gpt_oss is not known here") as refused:
        run_export(source=str(adapter), kind="gguf-adapter", to=str(tmp_path / "made"))
    assert refused.value.hint == "Merge it, and export the model as GGUF."
    assert not (tmp_path / "made").exists()
