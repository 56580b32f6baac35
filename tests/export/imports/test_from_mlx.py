"""What mlx-lm writes beyond plain layers: experts and routers, tied embeddings, and the settings of its older versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from tests.export.adapters import logits, run_export, with_adapter
from tests.export.imports.test_foreign_adapters import codes, imported, plain, write_mlx
from tests.tiny import save_tiny_model, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")
Tiny = Callable[[str], Path]
MATRICES = {"gate_proj": (16, 32), "up_proj": (16, 32), "down_proj": (32, 16)}
OLD = {"rank": 3, "dropout": 0.0, "scale": 7.0, "alpha": 6}


def save_mixtral(folder: Path) -> Path:
    """Make a tiny mixtral; mlx-lm calls its experts' layer as transformers 4 did, and their matrices otherwise."""
    shape = tiny_config("llama").to_diff_dict()
    kept = {key: shape[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")}
    from transformers import MixtralConfig

    torch.manual_seed(0)
    config = MixtralConfig(**kept, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=256)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    return folder


def write_experts(folder: Path, base: Path, block: str, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """Write an adapter of mlx-lm on the last layer's experts and router; give the updates."""
    write_mlx(folder, base)
    torch.manual_seed(3)
    tensors: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}
    for part in parts:
        if part == "gate":
            a, b, name = 0.2 * torch.randn(32, 3), 0.2 * torch.randn(3, 4), f"model.layers.1.{block}.gate"
            updates[part] = 7.0 * (a @ b).T
        else:
            rows, columns = MATRICES[part]
            a, b, name = 0.2 * torch.randn(4, 3, columns), 0.2 * torch.randn(4, rows, 3), f"model.layers.1.{block}.switch_mlp.{part}"
            updates[part] = 7.0 * b @ a
        tensors |= {f"{name}.lora_a": a, f"{name}.lora_b": b}
    save_file(tensors, folder / "adapters.safetensors")
    return updates


def with_updates(base: Path, updates: dict[str, Tensor]) -> Tensor:
    """Return the logits of the base with updates added to the last layer's experts and router."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    layer = model.model.layers[1].mlp
    with torch.no_grad():
        if "gate" in updates:
            layer.gate.weight += updates["gate"]
        if "gate_proj" in updates:
            layer.experts.gate_up_proj += torch.cat([updates["gate_proj"], updates["up_proj"]], dim=1)
        if "down_proj" in updates:
            layer.experts.down_proj += updates["down_proj"]
    return logits(model)


@pytest.mark.parametrize("parts", [("gate", *MATRICES), ("gate",), ("gate", "down_proj"), ("down_proj",)], ids="+".join)
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_and_router_do_what_they_did_in_mlx_lm(family: str, parts: tuple[str, ...], tiny_model: Tiny, tmp_path: Path) -> None:
    """Without `keys` mlx-lm trains both, so most of its adapters have them."""
    base = tiny_model(family) if family != "mixtral" else save_mixtral(tmp_path / "base")
    updates = write_experts(tmp_path / "mlx", base, "block_sparse_moe" if family == "mixtral" else "mlp", parts)
    told = imported(tmp_path / "mlx")
    assert sorted(codes(told)) == ["from_mlx", "fused_experts"]
    expected = with_updates(base, updates)
    assert (logits(with_adapter(base, Path(told["path"]))) - expected).abs().max() < 1e-5
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max() > 1e-3


def test_a_router_from_mlx_lm_merges(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("qwen3_moe")
    updates = write_experts(tmp_path / "mlx", base, "mlp", ("gate", "down_proj"))
    told = run_export(source=imported(tmp_path / "mlx")["path"], kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert told["certificate"]["verdict"] == "exact"
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - with_updates(base, updates)).abs().max() < 1e-5


def test_a_part_of_fused_experts_leaves_the_other_part_as_it_is(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("qwen3_moe")
    updates = write_experts(tmp_path / "mlx", base, "mlp", ("up_proj",))
    expected = with_updates(base, {**updates, "gate_proj": torch.zeros_like(updates["up_proj"])})
    assert (logits(with_adapter(base, Path(imported(tmp_path / "mlx")["path"]))) - expected).abs().max() < 1e-5


def test_a_dense_layer_that_peft_takes_for_experts_is_refused(tmp_path: Path) -> None:
    """PEFT 0.21 targets the experts' `down_proj` of all layers in its place, and leaves it without effect."""
    base = save_tiny_model(tmp_path / "base", "qwen3_moe", mlp_only_layers=[0])
    write_mlx(tmp_path / "mlx", base)
    save_file(
        {"model.layers.0.mlp.down_proj.lora_a": torch.randn(48, 3), "model.layers.0.mlp.down_proj.lora_b": torch.randn(3, 32)},
        tmp_path / "mlx/adapters.safetensors",
    )
    with pytest.raises(InputError, match=r"PEFT does not put it on model\.layers\.0\.mlp\.down_proj") as raised:
        imported(tmp_path / "mlx")
    assert "mlx_lm.fuse" in raised.value.hint


@pytest.mark.parametrize("module", ["model.embed_tokens", "lm_head"])
def test_an_update_of_a_vocabulary_is_that_of_mlx_lm(module: str, tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    into, out = (384, 32) if module == "model.embed_tokens" else (32, 384)
    write_mlx(tmp_path / "mlx", base)
    tensors = {f"{module}.lora_a": 0.2 * torch.randn(into, 3), f"{module}.lora_b": 0.2 * torch.randn(3, out)}
    save_file(tensors, tmp_path / "mlx/adapters.safetensors")
    told = imported(tmp_path / "mlx")
    assert (logits(with_adapter(base, Path(told["path"]))) - plain(base, tensors, 7.0)).abs().max() < 1e-5


def test_an_update_of_a_tied_embedding_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    """mlx-lm's acts on the output layer too; PEFT's would not."""
    write_mlx(tmp_path / "mlx", tiny_model("qwen3"))
    save_file(
        {"model.embed_tokens.lora_a": torch.randn(384, 3), "model.embed_tokens.lora_b": torch.randn(3, 32)},
        tmp_path / "mlx/adapters.safetensors",
    )
    with pytest.raises(InputError, match=r"written by mlx-lm.*tied to lm_head.*acts in both places") as raised:
        imported(tmp_path / "mlx")
    assert "mlx_lm.fuse" in raised.value.hint


@pytest.mark.parametrize(
    ("settings", "scale", "told"),
    [
        ({"lora_layers": 1}, 14.0, "note"),  # up to 0.12
        ({"lora_layers": 1, "use_dora": False}, 7.0, "warning"),  # 0.13 to 0.18
        ({"fine_tune_type": "lora", "num_layers": 1}, 7.0, ""),  # from 0.19 on
        ({"lora_layers": 1, "use_dora": False, "lora_parameters": {**OLD, "alpha": 3}}, 7.0, ""),
    ],
)
def test_alpha_counts_where_mlx_lm_counted_it(settings: dict[str, Any], scale: float, told: str, tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    tensors = write_mlx(tmp_path / "mlx", base)
    (tmp_path / "mlx/adapter_config.json").write_text(json.dumps({"model": str(base), "lora_parameters": OLD, **settings}))
    result = imported(tmp_path / "mlx")
    assert [finding["level"] for finding in result["findings"] if finding["code"] == "mlx_alpha"] == ([told] if told else [])
    assert (logits(with_adapter(base, Path(result["path"]))) - plain(base, tensors, scale)).abs().max() < 1e-5


def test_a_dora_of_older_mlx_lm_is_imported(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    tensors = write_mlx(tmp_path / "mlx", base, fine_tune_type="dora")
    parameters = {"rank": 3, "dropout": 0.0, "scale": 7.0}
    (tmp_path / "mlx/adapter_config.json").write_text(
        json.dumps({"model": str(base), "lora_layers": 1, "use_dora": True, "lora_parameters": parameters})
    )
    told = imported(tmp_path / "mlx")
    assert (logits(with_adapter(base, Path(told["path"]))) - plain(base, tensors, 7.0)).abs().max() < 1e-5
    kept = load_file(Path(told["path"]) / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    assert torch.equal(kept[f"base_model.model.{name}.lora_magnitude_vector"], tensors[f"{name}.m"])
