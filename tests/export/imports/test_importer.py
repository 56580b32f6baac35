"""Importing adapters: kept whole under a name, with the base model they were trained on and no other."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import RunEvent
from lora_studio.core.paths import studio_paths
from lora_studio.export.imports.base_fit import check_base
from lora_studio.export.imports.importer import import_task, imported_adapters, place_for
from tests.export.adapters import logits, make_adapter, targets_of, with_adapter
from tests.export.handmade import LLAMA_SHAPES, tensors_of, write_adapter
from tests.tiny import ARCHITECTURES, save_tiny_model

Tiny = Callable[[str], Path]


def imported(path: Path, context: TaskContext | None = None, **arguments: Any) -> dict[str, Any]:
    events: list[RunEvent] = list(import_task(context or TaskContext(), str(path), **arguments))
    return events[-1].result  # type: ignore[union-attr]


def codes(result: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in result["findings"]]


def kept() -> list[str]:
    root = studio_paths().adapters
    return sorted(path.name for path in root.iterdir()) if root.exists() else []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_peft_saved_for_every_family_is_imported_and_loads_again(architecture: str, tiny_model: Tiny, tmp_path: Path) -> None:
    base = tiny_model(architecture)
    folder = make_adapter(base, tmp_path / "mine", **targets_of(architecture))
    told = imported(folder)
    assert (told["name"], told["base"]) == ("mine", str(base))
    assert "other_base" not in codes(told)
    assert torch.equal(logits(with_adapter(base, Path(told["path"]))), logits(with_adapter(base, folder)))


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1, 2]},
        {"bias": "all"},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"rank_pattern": {"q_proj": 2}},
        {"target_modules": r".*\.(q_proj|v_proj)"},
    ],
)
def test_every_variant_of_lora_fits_its_base(settings: dict[str, Any], tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "base", "llama", attention_bias=True, mlp_bias=True)
    told = imported(make_adapter(base, tmp_path / "mine", **{"target_modules": ["q_proj", "v_proj"], **settings}))
    assert codes(told) in ([], ["files_left"])


def test_a_zip_is_imported_as_its_folder_is(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tiny_model("llama")))
    archive = Path(shutil.make_archive(str(tmp_path / "Mine (v 2)"), "zip", folder))
    told = imported(archive)
    assert told["name"] == "Mine-v-2"
    assert (Path(told["path"]) / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def test_a_name_that_is_taken_gets_a_number_unless_a_person_chose_it(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tiny_model("llama")))
    assert [imported(folder)["name"] for _ in range(3)] == ["mine", "mine-2", "mine-3"]
    with pytest.raises(InputError, match="called mine already"):
        imported(folder, name="mine")
    assert imported(folder, name="other")["name"] == "other"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "x" * 81, "nul\0"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no name for an adapter"):
        place_for(Path("mine"), name)


@pytest.mark.parametrize(
    ("source", "name"),
    [("/x/my lora!.tar.gz", "my-lora"), ("/x/...", "adapter"), ("/hub/models--me--style/snapshots/0123", "style"), ("/x/v1.5", "v1.5")],
)
def test_an_adapter_is_called_as_its_source(source: str, name: str) -> None:
    assert place_for(Path(source), None).name == name


def test_a_base_of_other_sizes_is_refused_with_the_module(tiny_model: Tiny, tmp_path: Path) -> None:
    tiny_model("llama")
    wide = save_tiny_model(tmp_path / "wide", "llama", hidden_size=64)
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path="somebody/tiny")
    with pytest.raises(InputError, match=r"does not fit .*wide: model\.layers\.0\.self_attn\.q_proj is 64 × 64 there") as raised:
        imported(folder, base=str(wide))
    assert "It was trained on somebody/tiny." in raised.value.message
    assert raised.value.field == "base"
    assert kept() == []


@pytest.mark.parametrize(("other", "told"), [("gpt2", r"it has no module model\.layers\.0"), ("qwen3", "and .* more")])
def test_a_base_of_another_family_is_refused(other: str, told: str, tiny_model: Tiny, tmp_path: Path) -> None:
    shapes = {"k_proj": (32, 32)}
    folder = write_adapter(tmp_path / "mine", tensors_of(**shapes))
    with pytest.raises(InputError, match=told):
        imported(folder, base=str(tiny_model(other)))


def test_more_layers_than_the_base_has_are_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", tensors_of(layers=3))
    with pytest.raises(InputError, match=r"it has no module model\.layers\.2\.self_attn\.q_proj, and 3 more"):
        imported(folder, base=str(tiny_model("llama")))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lm_head.weight", (384, 8)),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 8)),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", (8,)),
        ("model.embed_tokens.lora_embedding_A", (4, 500)),
    ],
)
def test_every_kind_of_tensor_is_held_against_the_base(name: str, shape: tuple[int, ...], tiny_model: Tiny, tmp_path: Path) -> None:
    more = {f"base_model.model.{name}": np.zeros(shape, np.float32)}
    if name.endswith("embedding_A"):
        more["base_model.model.model.embed_tokens.lora_embedding_B"] = np.zeros((32, 4), np.float32)
    folder = write_adapter(tmp_path / "mine", {**tensors_of(), **more})
    with pytest.raises(InputError, match="does not fit"):
        imported(folder, base=str(tiny_model("llama")))


@pytest.mark.parametrize("settings", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": [390]}, {}])
def test_a_vocabulary_that_was_resized_fits_where_it_was_saved_whole(settings: dict[str, Any], tiny_model: Tiny, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    model.resize_token_embeddings(400, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    get_peft_model(model, config).save_pretrained(tmp_path / "mine")
    assert "other_base" not in codes(imported(tmp_path / "mine", base=str(tiny_model("llama"))))


def test_another_name_with_the_same_shapes_is_a_warning_with_the_reason(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path="somebody/tiny")
    told = imported(folder, base=str(tiny_model("llama")))
    assert codes(told) == ["other_base"]
    assert "trained on somebody/tiny, not on" in told["findings"][0]["message"]
    assert told["base"] == str(tiny_model("llama"))


def test_the_same_name_in_another_folder_is_no_warning(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    assert check_base(folder, tiny_model("llama"), "/here/Tiny", "somebody/tiny") == []


def test_a_base_that_is_not_here_is_asked_for(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path="/home/jo/models/secret-base")
    with pytest.raises(InputError, match="secret-base, which is not on this machine") as raised:
        imported(folder)
    assert raised.value.field == "base"
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=None)
    with pytest.raises(InputError, match="does not name its base model"):
        imported(folder)
    assert kept() == []


def test_a_folder_of_another_machine_is_found_by_its_last_part(tmp_path: Path, tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--somebody--tiny-llama" / "snapshots" / ("ab" * 20)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(tiny_model("llama"), snapshot)
    (tmp_path / "hub" / "models--somebody--tiny-llama" / "refs").mkdir()
    (tmp_path / "hub" / "models--somebody--tiny-llama" / "refs" / "main").write_text("ab" * 20)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=r"D:\models\tiny-llama")
    told = imported(folder)
    assert (told["base"], codes(told)) == ("somebody/tiny-llama", ["base_by_name"])


def test_a_base_of_the_hub_that_is_not_here_yet_is_named_and_not_downloaded(tmp_path: Path) -> None:
    told = imported(write_adapter(tmp_path / "mine"))
    assert (told["base"], codes(told)) == ("somebody/tiny", ["base_not_here"])


def test_what_was_imported_is_listed_and_what_is_broken_is_not(tiny_model: Tiny, tmp_path: Path) -> None:
    assert imported_adapters() == []
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tiny_model("llama")), shiny=1)
    imported(folder)
    imported(folder)
    (studio_paths().adapters / "mine-2" / "adapter_model.safetensors").unlink()
    (studio_paths().adapters / "empty").mkdir()
    listed = imported_adapters()
    assert [adapter.name for adapter in listed] == ["mine"]
    assert listed[0].base == str(tiny_model("llama"))
    assert [finding.code for finding in listed[0].findings] == ["unknown_settings"]


def test_an_import_that_is_cancelled_keeps_nothing(tiny_model: Tiny, tmp_path: Path) -> None:
    context = TaskContext()
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tiny_model("llama")))
    context.control.stop()
    with pytest.raises(Cancelled):
        imported(folder, context=context)
    assert kept() == []


def test_a_tokenizer_that_asks_for_code_is_left(tiny_model: Tiny, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", base_model_name_or_path=str(tiny_model("llama")))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "evil.Evil"}}))
    (folder / "tokenizer.json").write_text("{}")
    told = imported(folder)
    assert codes(told) == ["tokenizer_left"]
    assert not [path.name for path in Path(told["path"]).iterdir() if path.name.startswith("tokenizer")]


def huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def overlapping(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"base_model.model.a.lora_A.weight": entry, "base_model.model.a.lora_B.weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def pickled(path: Path) -> None:
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")


def of_another_name(path: Path) -> None:
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)


def unpaired(path: Path) -> None:
    tensors = tensors_of()
    tensors.popitem()
    save_file(tensors, path)


def of_two_ranks(path: Path) -> None:
    tensors = tensors_of()
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: np.zeros((8, LLAMA_SHAPES["q_proj"][1]), np.float32)}, path)


def of_integers(path: Path) -> None:
    save_file({name: tensor.astype(np.int32) for name, tensor in tensors_of().items()}, path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (huge_header, "its header claims"),
        (overlapping, "overlap or leave holes"),
        (cut, "is cut"),
        (pickled, "not a sound safetensors|is cut|claims"),
        (of_another_name, "a tensor named 'weight'"),
        (unpaired, "without its"),
        (of_two_ranks, "are 8 × 32 and 32 × 4"),
        (of_integers, "is stored as I32"),
    ],
)
def test_weights_that_are_not_sound_are_refused_and_not_kept(spoil: Callable[[Path], None], told: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine")
    spoil(folder / "adapter_model.safetensors")
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for path in folder.iterdir():
            out.write(path, path.name)
    for source in (folder, archive):
        with pytest.raises(InputError, match=told):
            imported(source)
    assert kept() == []
