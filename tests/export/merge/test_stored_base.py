"""Adapters whose base is quantized in its own files: merged into its weights unpacked, or into the model it was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from lora_studio.export.formats import offers
from lora_studio.models.load import load_model
from tests.export.adapters import logits, make_adapter, run_export
from tests.models.packed_folders import save_bitsandbytes, save_gpt_oss, save_packed_model, tell
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
Maker = Callable[[Path], Any]

BASES: dict[str, tuple[Maker, dict[str, Any]]] = {
    "nf4": (lambda folder: save_bitsandbytes(folder, "nf4"), {"target_modules": ["q_proj", "down_proj"]}),
    "int8": (lambda folder: save_bitsandbytes(folder, "int8"), {"target_modules": ["q_proj", "down_proj"]}),
    "fp4 of Conv1D": (lambda folder: save_bitsandbytes(folder, "fp4", "gpt2"), {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "gptq": (lambda folder: save_packed_model(folder, "gptq"), {"target_modules": ["q_proj", "down_proj"]}),
    "fp8": (lambda folder: save_packed_model(folder, "fp8", "qwen3_moe"), {"target_modules": ["q_proj"]}),
    "mxfp4": (save_gpt_oss, {"target_modules": ["q_proj"]}),
}


def plain_adapter(base: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """An adapter made on the model in full precision that names the quantized one as its base."""
    make_adapter(base.with_name(f"{base.name}-plain"), folder, **settings)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    return folder


@pytest.mark.parametrize("kind", BASES)
def test_a_merge_goes_into_the_weights_unpacked_and_answers_as_base_and_adapter_did(kind: str, tmp_path: Path) -> None:
    make, settings = BASES[kind]
    base = tmp_path / "base"
    make(base)
    adapter = plain_adapter(base, tmp_path / "adapter", settings)
    trained = logits(PeftModel.from_pretrained(load_model(base, torch.float32, torch.device("cpu")), str(adapter)))
    result = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    config = json.loads((tmp_path / "merged/config.json").read_text())
    assert "quantization_config" not in config
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert float((logits(merged) - trained).abs().max()) <= 1e-4
    certificate = result["certificate"]
    assert certificate["verdict"] == "exact"
    assert "bits" in certificate["trained_base"]["held_in"]
    assert certificate["trained_base"]["merged_into"] == "base, unpacked to float32"
    assert certificate["trained_base"]["max_abs_logit_difference"] <= 1e-4


def test_by_default_it_is_written_in_the_dtype_that_was_quantized(tmp_path: Path) -> None:
    save_packed_model(tmp_path / "base", "fp8")
    adapter = plain_adapter(tmp_path / "base", tmp_path / "adapter", {"target_modules": ["q_proj"]})
    result = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"))
    assert (result["certificate"]["dtype"], result["certificate"]["verdict"]) == ("bfloat16", "rounded")


def test_into_the_original_it_goes_where_the_names_ending_tells_and_the_difference_is_told(tmp_path: Path) -> None:
    base = tmp_path / "tiny-bnb-4bit"
    plain = save_bitsandbytes(base, "nf4")
    original = plain.rename(tmp_path / "tiny")
    adapter = make_adapter(original, tmp_path / "adapter", target_modules=["q_proj"])
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    result = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32", into="original")
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(original), str(adapter)))
    assert float((logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - wanted).abs().max()) <= 1e-4
    told = result["certificate"]["trained_base"]
    assert told["merged_into"] == "tiny, in full precision"
    assert 0.03 < told["weights_apart"] < 0.15
    assert told["max_abs_logit_difference"] > 1e-3
    assert "tiny, in full precision" in (tmp_path / "merged/certificate.html").read_text()
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())


def test_a_named_original_that_is_another_model_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_bitsandbytes(base, "nf4")
    adapter = plain_adapter(base, tmp_path / "adapter", {"target_modules": ["q_proj"]})
    other = save_tiny_model(tmp_path / "other", seed=7)
    with pytest.raises(InputError, match="not what base was quantized from") as caught:
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into=str(other))
    assert caught.value.field == "into"
    assert not (tmp_path / "merged").exists()


def test_where_nothing_tells_the_original_it_has_to_be_named(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_bitsandbytes(base, "nf4")
    adapter = plain_adapter(base, tmp_path / "adapter", {"target_modules": ["q_proj"]})
    with pytest.raises(InputError, match="Nothing tells which model") as caught:
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into="original")
    assert "--into FOLDER_OR_NAME" in caught.value.hint
    result = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into=str(tmp_path / "base-plain"))
    assert result["certificate"]["passed"]


def test_an_adapter_of_weights_that_are_not_read_here_is_exported_and_its_merge_refused_with_the_way_out(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "base-plain")
    folder = save_tiny_model(tmp_path / "base")
    tell(folder, {"quant_method": "hqq"})
    adapter = plain_adapter(folder, tmp_path / "adapter", {"target_modules": ["q_proj"]})
    assert run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "copy"))["certificate"]["grade"] == "tensors"
    with pytest.raises(InputError, match="quantized by hqq are not read here") as caught:
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"))
    assert "--into" in caught.value.hint
    told = offers(adapter, folder)
    assert "quantized by hqq" in told["merged"].reason
    assert not told["adapter"].reason


def test_a_base_in_full_precision_has_no_other_to_merge_into(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(InputError, match="is in full precision: it is merged into that"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into=str(save_tiny_model(tmp_path / "other")))
    with pytest.raises(InputError, match="no base to merge into that is called"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into="no such thing")
