"""Adapters trained on a base in 4 or 8 bits: merged into full precision, its own or the held one unpacked, and the difference is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.errors import InputError
from lora_studio.models.load import load_model
from tests.export.adapters import logits, make_adapter, run_export
from tests.tiny import save_tiny_model

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("ignore")


def make_run(folder: Path, base: Path, quantization: str) -> Path:
    """A run with an adapter of rank 4, as if trained on a base held so."""
    changes = {"model.name_or_path": str(base), "model.quantization": quantization, "model.dtype": "float32"}
    folder.mkdir(parents=True)
    write_config(folder / "run.yaml", RunConfig(name="triage").replace(changes))
    targets = ["c_attn", "c_proj"] if "gpt2" in base.name else ["q_proj", "down_proj"]
    make_adapter(base, folder / "adapter", target_modules=targets, fan_in_fan_out="gpt2" in base.name)
    return folder


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_merging_into_the_base_as_it_was_held_gives_what_was_trained(architecture: str, quantization: str, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / architecture, architecture)
    run = make_run(tmp_path / "run", base, quantization)
    trained = logits(PeftModel.from_pretrained(load_model(base, torch.float32, torch.device("cpu"), quantization), str(run / "adapter")))
    told, apart = {}, {}
    for into in ("original", "dequantized"):
        told[into] = run_export(source=str(run), kind="merged", to=str(tmp_path / into), dtype="float32", into=into)
        apart[into] = float((logits(AutoModelForCausalLM.from_pretrained(tmp_path / into)) - trained).abs().max())
    assert apart["dequantized"] <= 1e-4 < apart["original"]
    for into, result in told.items():
        assert result["certificate"]["verdict"] == "exact"
        against = result["certificate"]["trained_base"]
        assert against["held_in"] == {"nf4": "4 bits (NF4)", "int8": "8 bits"}[quantization]
        assert (against["max_abs_logit_difference"] <= 1e-4) is (into == "dequantized")
    assert "that it was trained on" in (tmp_path / "original/certificate.html").read_text()


def test_a_base_that_was_never_quantized_has_no_dequantized_one(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model("llama"), tmp_path / "adapter", target_modules=["q_proj"])
    with pytest.raises(InputError, match="there is no dequantized one"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), into="dequantized")
