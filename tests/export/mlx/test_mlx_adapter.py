"""Adapters for mlx-lm: what is written does by mlx-lm's rules what the adapter does in PEFT, and comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_studio.core.errors import InputError, StudioError
from lora_studio.export import task
from lora_studio.export.formats import offers
from tests.export.adapters import logits, make_adapter, run_export, targets_of, with_adapter
from tests.export.imports.test_foreign_adapters import imported, plain
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
Tiny = Callable[[str], Path]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("phi3", {}),
    ("gemma3", {}),
    ("qwen3", {"use_rslora": True}),
    ("llama", {"use_dora": True}),
    ("llama", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}}),
    ("llama", {"layers_to_transform": [0]}),
    ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("llama", {"target_modules": ["lm_head", "q_proj"], "use_dora": True}),
    ("llama", {"target_modules": "all-linear"}),
    ("qwen3", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
    ("llama", {"use_dora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}}),
    ("llama", {"target_modules": r"model\.layers\.(0\.mlp\.up_proj|1\.self_attn\.[qv]_proj)"}),
]


@pytest.mark.parametrize(("architecture", "settings"), CASES)
def test_an_adapter_for_mlx_lm_does_what_it_does_in_peft_and_comes_back(
    architecture: str, settings: dict[str, Any], tiny_model: Tiny, tmp_path: Path
) -> None:
    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "adapter", **{**targets_of(architecture), **settings})
    expected = logits(with_adapter(base, adapter))
    told = run_export(source=str(adapter), kind="mlx-adapter", to=str(tmp_path / "mlx"))
    assert (told["certificate"]["verdict"], told["certificate"]["passed"]) == ("exact", True)
    config = json.loads((tmp_path / "mlx/adapter_config.json").read_text())
    tensors = load_file(tmp_path / "mlx/adapters.safetensors")
    assert (plain(base, tensors, config["lora_parameters"]["scale"]) - expected).abs().max() < 1e-5
    assert {tensor.shape[1] for name, tensor in tensors.items() if name.endswith("lora_a")} == {config["lora_parameters"]["rank"]}
    back = imported(tmp_path / "mlx", base=str(base))
    assert (logits(with_adapter(base, Path(back["path"]))) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("layers", "keys", "count"),
    [
        ([1], ["mlp.down_proj", "self_attn.q_proj"], 1),
        (None, ["mlp.down_proj", "self_attn.q_proj"], 2),
        ([0], ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"], 2),
    ],
)
def test_layers_are_counted_from_the_end_and_others_named_whole(
    layers: list[int] | None, keys: list[str], count: int, tiny_model: Tiny, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_model("llama"), tmp_path / "adapter", **targets_of("llama"), layers_to_transform=layers)
    run_export(source=str(adapter), kind="mlx-adapter", to=str(tmp_path / "mlx"))
    config = json.loads((tmp_path / "mlx/adapter_config.json").read_text())
    assert (config["lora_parameters"]["keys"], config["num_layers"]) == (keys, count)


@pytest.mark.parametrize(
    ("architecture", "settings", "told"),
    [
        ("gpt2", {}, "family gpt2 is not known"),
        ("llama", {"modules_to_save": ["lm_head"]}, "trained lm_head.weight itself"),
        ("qwen3", {"target_modules": ["embed_tokens"]}, "acts in both places"),
    ],
)
def test_what_mlx_lm_does_not_read_is_refused_and_not_offered(
    architecture: str, settings: dict[str, Any], told: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    from lora_studio.models.inspect import inspect_model

    base = tiny_model(architecture)
    adapter = make_adapter(base, tmp_path / "adapter", **{**targets_of(architecture), **settings})
    inspect_model(base)
    assert told in offers(adapter, base)["mlx-adapter"].reason
    with pytest.raises(InputError, match=told):
        run_export(source=str(adapter), kind="mlx-adapter", to=str(tmp_path / "mlx"))


@pytest.mark.parametrize("spoil", ["scale", "one element", "layers"])
def test_a_spoiled_adapter_for_mlx_lm_fails(spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_tiny_model(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))
    sound = task.write_mlx_adapter

    def spoiled(*given: Any) -> None:
        sound(*given)
        path, weights = given[-1] / "adapter_config.json", given[-1] / "adapters.safetensors"
        config, tensors = json.loads(path.read_text()), load_file(weights)
        if spoil == "scale":
            config["lora_parameters"]["scale"] *= 1.001
        elif spoil == "layers":
            config["num_layers"] = 1
        else:
            next(tensor for name, tensor in tensors.items() if name.endswith("lora_b"))[1, 3] += 1e-3
        path.write_text(json.dumps(config))
        save_file(tensors, weights)

    monkeypatch.setattr(task, "write_mlx_adapter", spoiled)
    with pytest.raises(StudioError, match="did not pass"):
        run_export(source=str(adapter), kind="mlx-adapter", to=str(tmp_path / "exports/mlx"))


def test_values_keep_their_bits_where_one_scale_does(tiny_model: Tiny, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model("llama"), tmp_path / "adapter", **targets_of("llama"))
    run_export(source=str(adapter), kind="mlx-adapter", to=str(tmp_path / "mlx"))
    own, made = load_file(adapter / "adapter_model.safetensors"), load_file(tmp_path / "mlx/adapters.safetensors")
    name = "model.layers.0.mlp.down_proj"
    assert torch.equal(made[f"{name}.lora_b"], own[f"base_model.model.{name}.lora_B.weight"].T)
