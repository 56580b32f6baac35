"""Adapters of litgpt: taken in, they do to the base just what they did there, and nothing of their pickle is run."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_studio.core.errors import InputError
from tests.export.adapters import logits, run_export, with_adapter
from tests.export.imports.test_foreign_adapters import codes, imported
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
Tiny = Callable[[str], Path]
R, ALPHA, HEAD = 3, 12, 8
EVERYTHING = ("query", "key", "value", "projection", "mlp", "head")
IN_TRANSFORMERS = {"attn.proj": "self_attn.o_proj", "mlp.fc_1": "mlp.gate_proj", "mlp.fc_2": "mlp.up_proj", "mlp.proj": "mlp.down_proj"}
SIZES = {"attn.proj": (32, 32), "mlp.fc_1": (48, 32), "mlp.fc_2": (48, 32), "mlp.proj": (32, 48)}


def write_litgpt(folder: Path, which: tuple[str, ...], groups: int = 2, **model: Any) -> dict[str, Tensor]:
    """Write an adapter as litgpt does, on a model of 2 layers and 4 heads; give the updates, out × in, by transformers' names."""
    folder.mkdir()
    torch.manual_seed(4)
    tensors: dict[str, Tensor] = {}
    updates: dict[str, Tensor] = {}

    def add(name: str, called: list[str], rows: list[int], columns: int) -> None:
        """Each B has its own rows of A."""
        many_a = [0.2 * torch.randn(R, columns) for _ in called]
        many_b = [0.2 * torch.randn(row, R) for row in rows]
        tensors[f"{name}.lora_A"], tensors[f"{name}.lora_B"] = torch.cat(many_a), torch.cat(many_b)
        updates.update({module: ALPHA / R * b @ a for module, a, b in zip(called, many_a, many_b, strict=True)})

    rows = {"query": 4 * HEAD, "key": groups * HEAD, "value": groups * HEAD}
    enabled = [part for part in rows if part in which]
    names = [name for name in SIZES if ("projection" if name == "attn.proj" else "mlp") in which]
    for layer in range(2):
        if enabled:
            called = [f"model.layers.{layer}.self_attn.{part[0]}_proj" for part in enabled]
            add(f"transformer.h.{layer}.attn.qkv", called, [rows[part] for part in enabled], 32)
        for name in names:
            add(f"transformer.h.{layer}.{name}", [f"model.layers.{layer}.{IN_TRANSFORMERS[name]}"], [SIZES[name][0]], SIZES[name][1])
    if "head" in which:
        add("lm_head", ["lm_head"], [384], 32)
    torch.save({"model": tensors}, folder / "lit_model.pth.lora")
    settings = {"checkpoint_dir": "checkpoints/somebody/tiny", "lora_r": R, "lora_alpha": ALPHA, "lora_dropout": 0.05}
    (folder / "hyperparameters.yaml").write_text(yaml.safe_dump({**settings, **{f"lora_{part}": part in which for part in EVERYTHING}}))
    (folder / "model_config.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "tiny",
                "hf_config": {"org": "somebody", "name": "tiny"},
                "n_head": 4,
                "n_query_groups": groups,
                "head_size": HEAD,
                "mlp_class_name": "LLaMAMLP",
                **model,
            }
        )
    )
    return updates


def with_updates(base: Path, updates: dict[str, Tensor]) -> Tensor:
    """Return the logits of the base with updates added to its weights."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name, update in updates.items():
            model.get_submodule(name).weight += update
    return logits(model)


TRAINED: list[tuple[str, ...]] = [("query", "value"), ("key",), ("query", "key", "value"), ("mlp", "projection"), EVERYTHING]


@pytest.mark.parametrize("which", TRAINED, ids="+".join)
def test_an_adapter_of_litgpt_does_what_it_did_there(which: tuple[str, ...], tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    updates = write_litgpt(tmp_path / "mine", which)
    told = imported(tmp_path / "mine", base=str(base))
    assert codes(told)[0] == "from_litgpt"
    expected = with_updates(base, updates)
    assert (logits(with_adapter(base, Path(told["path"]))) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - expected).abs().max() > 1e-2
    config = json.loads((Path(told["path"]) / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(updates)
    assert not (Path(told["path"]) / "lit_model.pth.lora").exists()


@pytest.mark.parametrize("groups", [1, 4])
def test_heads_that_share_keys_or_do_not_are_parted_alike(groups: int, tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama", num_key_value_heads=groups)
    updates = write_litgpt(tmp_path / "mine", ("query", "key", "value"), groups)
    told = imported(tmp_path / "mine", base=str(base))
    assert (logits(with_adapter(base, Path(told["path"]))) - with_updates(base, updates)).abs().max() < 1e-5


def test_it_merges_and_its_values_keep_their_bits(tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model("llama")
    updates = write_litgpt(tmp_path / "mine", ("query", "value"))
    own = torch.load(tmp_path / "mine/lit_model.pth.lora", weights_only=True)["model"]
    zipped = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "mine")
    told = imported(Path(zipped), base=str(base))
    kept = load_file(Path(told["path"]) / "adapter_model.safetensors")
    value = "base_model.model.model.layers.1.self_attn.v_proj"
    assert torch.equal(kept[f"{value}.lora_A.weight"], own["transformer.h.1.attn.qkv.lora_A"][R:])
    assert torch.equal(kept[f"{value}.lora_B.weight"], own["transformer.h.1.attn.qkv.lora_B"][4 * HEAD :])
    exported = run_export(source=told["path"], kind="merged", to=str(tmp_path / "merged"), dtype="float32")
    assert exported["certificate"]["verdict"] == "exact"
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - with_updates(base, updates)).abs().max() < 1e-5


def changed(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = torch.load(folder / "lit_model.pth.lora", weights_only=True)["model"]
    change(tensors)
    torch.save({"model": tensors}, folder / "lit_model.pth.lora")


def settings_changed(folder: Path, **changes: Any) -> None:
    path = folder / "hyperparameters.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


QKV = "transformer.h.0.attn.qkv.lora_A"
REFUSED: list[tuple[str, Callable[[Path], object]]] = [
    ("rows, and .* by its settings", lambda folder: settings_changed(folder, lora_key=True)),
    ("gives None as lora_alpha", lambda folder: settings_changed(folder, lora_alpha=None)),
    ("hyperparameters.yaml is not beside it", lambda folder: (folder / "hyperparameters.yaml").unlink()),
    ("hyperparameters.yaml cannot be read", lambda folder: (folder / "hyperparameters.yaml").write_text("a: [")),
    (
        "of an older litgpt, which mixed query",
        lambda folder: changed(folder, lambda tensors: tensors.update({"transformer.h.0.attn.attn.lora_A": tensors.pop(QKV)})),
    ),
    ("no matrix of numbers", lambda folder: changed(folder, lambda tensors: tensors.update({QKV: torch.ones(3)}))),
    ("larger than the file", lambda folder: changed(folder, lambda tensors: tensors.update({QKV: torch.zeros(1).expand(6, 1 << 20)}))),
    ("damaged, or more than weights", lambda folder: (folder / "lit_model.pth.lora").write_bytes(b"x")),
    ("holds no A and B", lambda folder: changed(folder, lambda tensors: tensors.clear())),
]


@pytest.mark.parametrize(("told", "spoil"), REFUSED, ids=[told for told, _ in REFUSED])
def test_what_is_not_sound_is_refused_and_not_kept(told: str, spoil: Callable[[Path], object], tiny_model: Tiny, tmp_path: Path) -> None:
    write_litgpt(tmp_path / "mine", ("query", "value"))
    spoil(tmp_path / "mine")
    with pytest.raises(InputError, match=f"written by litgpt.*{told}") as raised:
        imported(tmp_path / "mine", base=str(tiny_model("llama")))
    assert raised.value.hint


def test_a_model_of_fused_layers_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_litgpt(tmp_path / "mine", ("query", "value"), mlp_class_name="GptNeoxMLP")
    with pytest.raises(InputError, match=r"GptNeoxMLP.*called otherwise") as raised:
        imported(tmp_path / "mine")
    assert "litgpt merge_lora" in raised.value.hint


class _MakesFolder:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_runs_none(tiny_model: Tiny, tmp_path: Path) -> None:
    write_litgpt(tmp_path / "mine", ("query", "value"))
    torch.save({"model": {QKV: _MakesFolder(str(tmp_path / "ran"))}}, tmp_path / "mine/lit_model.pth.lora")
    with pytest.raises(InputError, match="more than weights"):
        imported(tmp_path / "mine", base=str(tiny_model("llama")))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_was_packed_smaller_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    """It could fill the memory from a small file; torch packs nothing smaller."""
    write_litgpt(tmp_path / "mine", ("query", "value"))
    path = tmp_path / "mine/lit_model.pth.lora"
    with zipfile.ZipFile(path) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries:
            packed.writestr(name, data)
    with pytest.raises(InputError, match="packed as torch packs no file"):
        imported(tmp_path / "mine", base=str(tiny_model("llama")))
