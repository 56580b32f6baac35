"""Merging from file to file: every bit is PEFT's, whatever the files look like, and little is held in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lora_studio.core.errors import InputError, StudioError
from lora_studio.export.merge.changes import Changes
from lora_studio.export.merge.merge import merge_into
from lora_studio.export.merge.merge_plan import MergePlan
from tests.export.adapters import EMBEDDINGS, PLAIN, logits, make_adapter, run_export, targets_of, with_adapter
from tests.planning.live_memory import peak_bytes
from tests.tiny import ARCHITECTURES, save_tiny_model, save_tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")


def merged(base: Path, adapter: Path, folder: Path, dtype: str | None = "float32") -> Path:
    folder.mkdir()
    list(merge_into(MergePlan.of(base, Changes.of(base, adapter), dtype), folder))
    return folder


def check_bits(base: Path, adapter: Path, written: Path, rows: int = 0) -> Any:
    """Hold a merged folder against PEFT's merge of the whole model in float32; give what it loads as."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    expected = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True).state_dict()
    found = AutoModelForCausalLM.from_pretrained(written, dtype="auto")
    state = found.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor.to(state[name].dtype)), name
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["embed"]},
        {"trainable_token_indices": [3, 7]},
    ],
    ids=lambda settings: next(iter(settings), "lora"),
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_bit_is_pefts(architecture: str, settings: dict[str, Any], tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    targets, embedding = targets_of(architecture), EMBEDDINGS.get(architecture, "embed_tokens")
    if settings.get("use_dora"):
        targets.pop("target_parameters", None)
    if "modules_to_save" in settings:
        settings = {"modules_to_save": [embedding]}
    if "trainable_token_indices" in settings:
        settings = {"trainable_token_indices": {embedding: [3, 7]}}
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "adapter", **targets, **settings)
    check_bits(base, adapter, merged(base, adapter, tmp_path / "merged"))


@pytest.mark.parametrize(
    ("architecture", "settings", "tied"),
    [
        ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ("qwen3", {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]}, False),
        ("qwen3", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}, True),
        ("gpt2", {"target_modules": ["c_attn", "wpe"], "use_dora": True, "fan_in_fan_out": True}, True),
        ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "use_dora": True}, False),
        ("qwen3_moe", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}, False),
    ],
)
def test_a_head_stays_tied_only_where_it_is_still_its_embedding(
    architecture: str, settings: dict[str, Any], tied: bool, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    found = check_bits(base, adapter, merged(base, adapter, tmp_path / "merged"))
    assert found.config.tie_word_embeddings is tied


def test_rows_of_a_tied_head_trained_apart_from_its_embeddings_are_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("qwen3")
    indices = {"embed_tokens": [3], "lm_head": [4]}
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], trainable_token_indices=indices)
    with pytest.raises(InputError, match=r"trains rows of lm_head apart from those of model\.embed_tokens, to which it is tied"):
        merged(base, adapter, tmp_path / "merged")


def test_a_base_in_shards_is_merged_into_shards_alike(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model("llama")).save_pretrained(base, max_shard_size="60KB")
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    written = merged(base, adapter, tmp_path / "merged")
    check_bits(base, adapter, written)
    shards = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(path.name for path in written.glob("*.safetensors")) == shards
    index = json.loads((written / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]


def test_old_names_and_old_buffers_stay_as_they_are(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("gpt2"), tmp_path / "base")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(base / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("gpt2"))
    written = merged(base, adapter, tmp_path / "merged")
    check_bits(base, adapter, written)
    assert load_file(written / "model.safetensors").keys() == tensors.keys()


def test_an_adapter_that_added_tokens_takes_its_vocabulary_along(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(400)
    with_lora: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    with_lora.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    found = check_bits(base, tmp_path / "adapter", merged(base, tmp_path / "adapter", tmp_path / "merged"), rows=400)
    assert found.config.vocab_size == 400


def test_a_head_without_rows_for_new_tokens_gets_the_mean_of_its_own(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model.model.embed_tokens.weight"
    tensors[key] = torch.cat([tensors[key], torch.zeros(16, tensors[key].shape[1])])
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    written = load_file(merged(base, adapter, tmp_path / "merged") / "model.safetensors")
    own = load_file(base / "model.safetensors")["lm_head.weight"]
    assert torch.equal(written["model.embed_tokens.weight"], tensors[key])
    assert torch.equal(written["lm_head.weight"], torch.cat([own, own.mean(0).expand(16, -1)]))


EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
FUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gpt_oss": ({"num_local_experts": 4, "head_dim": 8}, EXPERTS),
    "granitemoe": ({"num_local_experts": 4}, [*EXPERTS, "router.weight"]),
    "llama4_text": ({"num_local_experts": 4, "intermediate_size_mlp": 48, "head_dim": 8}, EXPERTS),
    "jetmoe": ({"num_local_experts": 4, "kv_channels": 8}, ["input_linear.weight", "output_linear.weight"]),
    "aria_text": ({"moe_num_experts": 4, "moe_topk": 2}, EXPERTS),
    "phimoe": ({"num_local_experts": 4}, EXPERTS),
    "mixtral": ({"num_local_experts": 4}, EXPERTS),
}


def save_experts(folder: Path, family: str) -> Path:
    """Make a tiny mixture of experts; all but the last two families keep them fused on disk too."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 384,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
        "pad_token_id": 0,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**shape, **FUSED[family][0]}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"gate_up_proj": 32}}])
@pytest.mark.parametrize("family", FUSED)
def test_experts_are_merged_as_peft_merges_them_however_they_lie_on_disk(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    base = save_experts(tmp_path / "base", family)
    names = FUSED[family][1]
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=names, **settings)
    check_bits(base, adapter, merged(base, adapter, tmp_path / "merged"))


@pytest.mark.parametrize("family", ["gpt_oss", "jetmoe"])
def test_merged_experts_answer_as_base_and_adapter_in_peft(family: str, tmp_path: Path) -> None:
    base = save_experts(tmp_path / "base", family)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=FUSED[family][1])
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert (told["certificate"]["verdict"], told["certificate"]["grade"]) == ("exact", "logits")
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert (found - logits(with_adapter(base, adapter))).abs().max() <= 1e-4


def test_a_stack_of_experts_is_merged_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_experts(tmp_path / "base", "gpt_oss")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=EXPERTS)
    monkeypatch.setattr("lora_studio.export.merge.blocks._BLOCK_VALUES", 2 * 48 * 32)  # two of four
    check_bits(base, adapter, merged(base, adapter, tmp_path / "merged"))


def test_experts_that_give_other_bits_some_at_a_time_are_multiplied_out_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_experts(tmp_path / "base", "gpt_oss")
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=EXPERTS)
    monkeypatch.setattr("lora_studio.export.merge.blocks._gives_same_stack", lambda *_: False)
    check_bits(base, adapter, merged(base, adapter, tmp_path / "merged"))


def test_each_tensor_keeps_its_own_dtype_unless_one_is_asked_for(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("llama"), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    mixed = {name: tensor if "norm" in name else tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(mixed, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    written = load_file(merged(base, adapter, tmp_path / "merged", dtype=None) / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in written.items()} == {name: tensor.dtype for name, tensor in mixed.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_at_most_three_times_the_largest_tensor_is_held(settings: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama", hidden_size=512, intermediate_size=1536, num_hidden_layers=4)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules="all-linear", **settings)
    (tmp_path / "merged").mkdir()
    plan = MergePlan.of(base, Changes.of(base, adapter), dtype)
    largest = 512 * 1536 * 4
    assert largest < plan.bytes / 5
    assert peak_bytes(lambda: list(merge_into(plan, tmp_path / "merged"))) <= 3 * largest


def test_float16_that_cannot_hold_a_weight_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model("llama"), tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 70_000.0
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    with pytest.raises(StudioError, match="too large for float16"):
        merged(base, adapter, tmp_path / "merged", "float16")


def test_an_adapter_with_nan_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StudioError, match="is not finite"):
        merged(base, adapter, tmp_path / "merged")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_began_by_changing_its_base_is_refused(start: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": start}))
    with pytest.raises(InputError, match="path_initial_model_for_weight_conversion"):
        merged(base, adapter, tmp_path / "merged")


def test_a_change_of_what_is_in_none_of_the_files_is_refused_before_anything_is_written(
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    base = shutil.copytree(tiny_model("llama"), tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"changes model\.layers\.1\.self_attn\.q_proj, whose .*q_proj\.weight is in none") as told:
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"))
    assert "Export the adapter" in told.value.hint
    assert "without this target" in told.value.hint
    assert not (tmp_path / "merged").exists()


def test_a_bias_that_the_base_has_no_place_for_is_refused(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    adapter = make_adapter(base, tmp_path / "adapter", **PLAIN, lora_bias=True)
    with pytest.raises(InputError, match="no bias"):
        merged(base, adapter, tmp_path / "merged")
