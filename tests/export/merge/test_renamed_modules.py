"""Modules whose name PEFT takes for another one as it reads an adapter's file: nothing of them is lost on any way an adapter goes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lora_studio.adapters.put_on import put_on, set_tensors
from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.errors import InputError
from lora_studio.export.imports.importer import import_adapter
from lora_studio.models.peft_names import UNREAD, names_for_peft
from tests.export.adapters import logits, run_export, with_adapter
from tests.families.configs import tiny_family_config, tiny_family_model
from tests.tiny import save_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

SHARED = ["q_proj", "shared_experts.gate_proj", "shared_experts.down_proj"]
"""In laguna; on disk they are `shared_expert`, and transformers' rule for that reads the name in memory too."""
CONVOLUTIONS = ["o_proj.linear", "weight_proj"]
"""In inkling2: `weight_proj` becomes `weight_proj.weight`, whatever stands behind it."""


@dataclass(frozen=True)
class Made:
    """A base, an adapter as PEFT saves it, and what PEFT makes of both in memory, before anything was read."""

    base: Path
    adapter: Path
    logits: torch.Tensor
    merged: dict[str, torch.Tensor]


def make(folder: Path, family: str, targets: list[str], **settings: Any) -> Made:
    base = folder / "base"
    tiny_family_model(family).save_pretrained(base)
    save_tiny_tokenizer(base)
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **settings)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.1)
    model.save_pretrained(str(folder / "adapter"))
    wanted = logits(model)
    return Made(base, folder / "adapter", wanted, model.merge_and_unload(safe_merge=True).state_dict())


@cache
def empty(family: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(tiny_family_config(family))


def assert_merged(made: Made, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    assert found.keys() == made.merged.keys()
    for name, tensor in made.merged.items():
        assert torch.equal(found[name], tensor.to(dtype)), name


@pytest.mark.parametrize(("family", "targets"), [("laguna", SHARED), ("inkling2_text", CONVOLUTIONS)])
def test_a_merge_has_every_module_bit_for_bit(family: str, targets: list[str], tmp_path: Path) -> None:
    made = make(tmp_path, family, targets)
    told = run_export(source=str(made.adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert (told["certificate"]["verdict"], told["certificate"]["grade"]) == ("exact", "logits")
    assert_merged(made, tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_that_are_single_numbers_are_kept_and_replaced_like_any_tensor(dtype: str, tmp_path: Path) -> None:
    made = make(tmp_path, "apertus", ["q_proj"], modules_to_save=["model.layers.1.mlp.act_fn"])
    assert made.merged["model.layers.1.mlp.act_fn.beta"].dim() == 0
    run_export(source=str(made.adapter), kind="merged", to=str(tmp_path / "merged"), dtype=dtype)
    assert_merged(made, tmp_path / "merged", getattr(torch, dtype))


@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_goes_on_whole_where_peft_alone_loses_modules(use_dora: bool, tmp_path: Path) -> None:
    made = make(tmp_path, "laguna", SHARED, use_dora=use_dora)
    alone = logits(with_adapter(made.base, made.adapter))
    assert (alone - made.logits).abs().max() > 1e-3, "PEFT reads these names by now: this can go"
    found = put_on(AutoModelForCausalLM.from_pretrained(made.base), made.adapter)
    assert torch.equal(logits(found), made.logits)


def test_a_checkpoints_tensors_all_go_back(tmp_path: Path) -> None:
    made = make(tmp_path, "inkling2_text", CONVOLUTIONS)
    config = LoraConfig.from_pretrained(str(made.adapter))
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(made.base), config)
    wanted = load_file(made.adapter / "adapter_model.safetensors")
    missing, unexpected = set_tensors(model, wanted)
    found = get_peft_model_state_dict(model)
    assert not unexpected
    assert not any(".lora_" in name for name in missing)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_an_exported_adapter_is_read_whole_by_peft_itself_and_again_here(tmp_path: Path) -> None:
    made = make(tmp_path, "laguna", SHARED, use_dora=True)
    out = tmp_path / "exported"
    told = run_export(source=str(made.adapter), kind="adapter", to=str(out))
    assert told["certificate"]["verdict"] == "exact"
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made.base), str(out))
    assert torch.equal(logits(found), made.logits)
    assert SavedAdapter.open(out).pairs.keys() == SavedAdapter.open(made.adapter).pairs.keys()
    run_export(source=str(out), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert_merged(made, tmp_path / "merged")


@pytest.mark.usefixtures("studio_home")
def test_an_imported_adapter_has_the_names_of_the_base(tmp_path: Path) -> None:
    made = make(tmp_path, "laguna", SHARED)
    run_export(source=str(made.adapter), kind="adapter", to=str(tmp_path / "exported"))
    imported = import_adapter(tmp_path / "exported", tmp_path / "into", str(made.base))
    with safe_open(str(imported.folder / "adapter_model.safetensors"), "pt") as file:
        names = set(file.keys())
    assert names == set(load_file(made.adapter / "adapter_model.safetensors"))


def test_an_adapter_that_peft_reads_under_no_name_is_not_written_and_its_module_named(tmp_path: Path) -> None:
    made = make(tmp_path, "inkling2_text", CONVOLUTIONS)
    with pytest.raises(InputError, match=r"without model\.layers\.5\.self_attn\.k_proj\.sconv\.weight_proj and 1 more") as told:
        run_export(source=str(made.adapter), kind="adapter", to=str(tmp_path / "exported"))
    assert "merged" in told.value.hint
    assert not (tmp_path / "exported").exists()


def test_only_what_peft_misreads_is_called_otherwise() -> None:
    keys = [f"base_model.model.model.layers.1.{module}.lora_A.weight" for module in ("self_attn.q_proj", "mlp.shared_experts.up_proj")]
    assert names_for_peft(empty("laguna"), keys) == {keys[1]: keys[1].replace("shared_experts", "shared_expert")}
    assert names_for_peft(empty("llama"), keys) == {}


def test_the_tree_says_where_peft_loads_no_adapter() -> None:
    from lora_studio.models.inspect import tree_of

    unread = {module.name for module in tree_of(empty("inkling2_text")).modules if module.reason == UNREAD}
    assert unread == {f"model.layers.5.self_attn.{name}_proj.sconv.weight_proj" for name in "kv"}
    assert not any(module.reason == UNREAD for module in tree_of(empty("laguna")).modules)
