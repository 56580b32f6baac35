from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_studio.adapters.inject import inject
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.settings import AdapterSettings
from lora_studio.inference.loaded_model import LoadedModel
from tests.tiny import ARCHITECTURES, save_tiny_model
from tests.train.helpers import adapted_model, targets, token_rows

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def settings(architecture: str, **changes: object) -> AdapterSettings:
    return AdapterSettings.model_validate({"r": 4, "target_modules": targets(architecture), **changes})


def shake(model: PeftModel) -> None:
    """Move every trainable parameter, as training would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_comes_off_and_leaves_the_base_bit_for_bit(tiny_model: TinyModel, architecture: str, use_dora: bool) -> None:
    host = LoadedModel()
    base = host.base(tiny_model(architecture), torch.float32, CPU)
    before = state(base)
    with host.adapted(lambda model: inject(model, settings(architecture, use_dora=use_dora))) as model:
        shake(model)
    again = host.base(tiny_model(architecture), torch.float32, CPU)
    assert again is base
    after = state(again)
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not again.training


def test_fused_experts_come_off_bit_for_bit(tiny_model: TinyModel) -> None:
    host = LoadedModel()
    base = host.base(tiny_model("qwen3_moe"), torch.float32, CPU)
    before = state(base)
    parameters = ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj")
    with host.adapted(lambda model: inject(model, settings("qwen3_moe", target_parameters=parameters))) as model:
        shake(model)
    after = state(host.base(tiny_model("qwen3_moe"), torch.float32, CPU))
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("changes", [{"bias": "lora_only"}, {"bias": "all"}, {"modules_to_save": ("lm_head",)}])
def test_a_base_that_was_trained_itself_is_loaded_afresh(tiny_model: TinyModel, changes: dict[str, object]) -> None:
    architecture = "gpt_neox" if "bias" in changes else "llama"
    host = LoadedModel()
    before = state(host.base(tiny_model(architecture), torch.float32, CPU))
    with host.adapted(lambda model: inject(model, settings(architecture, **changes))) as model:
        shake(model)
    assert not host.loaded
    after = state(host.base(tiny_model(architecture), torch.float32, CPU))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_base_comes_off_whole_after_an_error_in_the_block(tiny_model: TinyModel) -> None:
    host = LoadedModel()
    base = host.base(tiny_model("llama"), torch.float32, CPU)
    before = state(base)
    with contextlib.suppress(ZeroDivisionError), host.adapted(lambda model: inject(model, settings("llama"))) as model:
        shake(model)
        raise ZeroDivisionError
    assert state(base).keys() == before.keys()
    with host.adapted(lambda model: inject(model, settings("llama"))) as model:
        assert isinstance(model, PeftModel)


def test_settings_that_match_nothing_cost_no_reload(tiny_model: TinyModel) -> None:
    host = LoadedModel()
    base = host.base(tiny_model("llama"), torch.float32, CPU)
    with pytest.raises(InputError), host.adapted(lambda model: inject(model, settings("llama", target_modules=("nowhere",)))):
        pass
    assert host.base(tiny_model("llama"), torch.float32, CPU) is base


def test_the_base_stays_warm_until_folder_dtype_or_files_change(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "llama")
    context = TaskContext()
    host = LoadedModel.of(context)
    assert LoadedModel.of(context) is host
    base = host.base(folder, torch.float32, CPU)
    assert host.base(folder, torch.float32, CPU) is base
    half = host.base(folder, torch.bfloat16, CPU)
    assert half.dtype == torch.bfloat16
    save_tiny_model(folder, "llama", seed=3)
    assert not host.is_warm(folder, torch.bfloat16, CPU)


def test_a_saved_adapter_goes_on_and_off(tiny_model: TinyModel, tmp_path: Path) -> None:
    saved = adapted_model(tiny_model("llama"))
    saved.save_pretrained(tmp_path / "adapter")
    ids = torch.from_numpy(token_rows(1)[0].input_ids.astype("int64"))[None]
    with torch.no_grad():
        expected = saved.eval()(input_ids=ids).logits
        plain = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))(input_ids=ids).logits
        host = LoadedModel()
        base = host.base(tiny_model("llama"), torch.float32, CPU)
        with host.with_adapter(tmp_path / "adapter") as model:
            torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=1e-6)
        assert torch.equal(base(input_ids=ids).logits, plain)


@pytest.mark.parametrize("what", ["empty folder", "cut weights", "another base", "more layers"])
def test_an_adapter_that_cannot_go_on_is_refused_and_the_base_stays_usable(tiny_model: TinyModel, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    if what != "empty folder":
        architecture = "gpt2" if what == "another base" else "llama"
        base = save_tiny_model(tmp_path / "deep", "llama", num_hidden_layers=3) if what == "more layers" else tiny_model(architecture)
        adapted_model(base, architecture).save_pretrained(folder)
    if what == "cut weights":
        weights = folder / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:200])
    host = LoadedModel()
    before = state(host.base(tiny_model("llama"), torch.float32, CPU))
    with pytest.raises(InputError, match="adapter"), host.with_adapter(folder):
        pass
    after = state(host.base(tiny_model("llama"), torch.float32, CPU))
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
