"""Whatever a file from outside holds, its reader gives a value or an error for people, and nothing else."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.config_files import parse_config, read_config
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.events import RunFinished, event_to_json, read_events
from lora_studio.core.history import RunHistory
from lora_studio.core.runs import last_line
from lora_studio.data.readers.dataset_layout import choose_files
from lora_studio.export.imports.adapter_files import take_adapter
from lora_studio.export.imports.foreign_config import read_foreign_config
from lora_studio.export.mlx.format import from_mlx
from lora_studio.models.facts import read_facts
from lora_studio.models.gguf_header import read_gguf, read_gguf_arrays
from lora_studio.models.safetensors_header import read_header

EXAMPLES = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)


def safetensors(header: Any, data: bytes = bytes(64)) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf(settings_: dict[str, str], tensors: int = 0) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, tensors, len(settings_))]
    for key, value in settings_.items():
        parts += [struct.pack("<Q", len(key)), key.encode(), struct.pack("<IQ", 8, len(value)), value.encode()]
    for number in range(tensors):
        name = f"blk.{number}.weight".encode()
        parts += [struct.pack("<Q", len(name)), name, struct.pack("<IQQIQ", 2, 4, 2, 0, 32 * number)]
    return b"".join(parts) + bytes(128)


def zipped(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


ADAPTER = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}).encode(),
    "adapter_model.safetensors": safetensors(
        {
            "base_model.model.q_proj.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
            "base_model.model.q_proj.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
        }
    ),
}
STEP = {"event": "step", "step": 1, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0, "tokens": 5, "trained_tokens": 4}
STEP |= {"tokens_per_second": 2.0, "epoch": 0.5, "seconds": 0.1}
JOURNAL = [json.dumps(STEP), event_to_json(RunFinished(result={}))]


def told(call: Callable[[], object]) -> None:
    """Call a reader that may refuse what it reads in words for people, and in no other way."""
    said = ""
    try:
        call()
    except StudioError as error:
        said = error.message or "nothing"
    assert said != "nothing"


def take(path: Path) -> None:
    shutil.rmtree(path.parent / "into", ignore_errors=True)
    (path.parent / "into").mkdir()
    take_adapter(path, path.parent / "into", lambda: None)


def history(path: Path) -> None:
    found = RunHistory()
    for event in read_events(path.read_bytes().splitlines()):
        found.add(event)
    last_line(path)


FILES: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "safetensors": ("model.safetensors", ADAPTER["adapter_model.safetensors"], read_header),
    "gguf": ("model.gguf", gguf({"general.architecture": "llama", "general.name": "tiny"}, 3), read_gguf),
    "gguf arrays": ("model.gguf", gguf({"tokenizer.ggml.model": "gpt2"}), lambda path: read_gguf_arrays(path, "tokenizer.ggml.tokens")),
    "zip": ("adapter.zip", zipped(ADAPTER), take),
    "tar": ("adapter.tar.gz", tarred(ADAPTER), take),
    "journal": ("events.jsonl", "\n".join(JOURNAL).encode(), history),
    "config": (
        "run.yaml",
        b"name: tiny\nadapter: {r: 4}\ndata:\n  train: [rows.jsonl]\n",
        read_config,
    ),
    "facts": ("config.json", b'{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2}', lambda path: read_facts(path.parent)),
    "adapter config": ("adapter_config.json", ADAPTER["adapter_config.json"], lambda path: read_foreign_config(path.parent)),
}


def read(kind: str, content: bytes, folder: Path) -> None:
    name, _, reader = FILES[kind]
    path = folder / name
    path.write_bytes(content)
    told(lambda: reader(path))


@pytest.mark.parametrize("kind", FILES)
def test_a_sound_file_is_read(kind: str, tmp_path: Path) -> None:
    name, content, reader = FILES[kind]
    (tmp_path / name).write_bytes(content)
    reader(tmp_path / name)


@pytest.mark.parametrize("kind", FILES)
@EXAMPLES
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_told(kind: str, content: bytes, tmp_path: Path) -> None:
    read(kind, content, tmp_path)


@pytest.mark.parametrize("kind", FILES)
@EXAMPLES
@given(data=st.data())
def test_a_sound_file_that_was_cut_or_changed_is_read_or_told(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(FILES[kind][1])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    read(kind, bytes(content[: data.draw(st.integers(0, len(content)))]), tmp_path)


def within(chosen: list[str], names: list[str]) -> None:
    assert set(chosen) <= set(names)


def changed(sound: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Make a document with some of its values others, or none at all."""
    others = st.dictionaries(st.sampled_from([*sound, "other"]), VALUES, min_size=1, max_size=3)
    return others.map(lambda values: {**sound, **values}) | VALUES


CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "torch_dtype": "float32",
    "text_config": {"hidden_size": 4, "model_type": "llama"},
    "quantization_config": {"quant_method": "fp8"},
    "rope_scaling": None,
    "tie_word_embeddings": True,
}
PEFT = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {},
    "modules_to_save": None,
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "use_dora": False,
    "trainable_token_indices": None,
    "base_model_name_or_path": "tiny",
    "init_lora_weights": True,
}
MLX = {
    "fine_tune_type": "lora",
    "num_layers": 2,
    "lora_parameters": {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["q_proj"]},
    "model": "tiny",
}


@EXAMPLES
@given(document=changed(CONFIG) | changed(CONFIG["text_config"]).map(lambda inner: {**CONFIG, "text_config": inner}))
def test_any_config_of_a_model_is_read_or_told(document: Any, tmp_path: Path) -> None:
    read("facts", json.dumps(document).encode(), tmp_path)


@EXAMPLES
@given(document=changed(PEFT))
def test_any_config_of_an_adapter_is_read_or_told(document: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(ADAPTER["adapter_model.safetensors"])
    read("adapter config", json.dumps(document).encode(), tmp_path)
    told(lambda: SavedAdapter.open(tmp_path))


@EXAMPLES
@given(document=changed(MLX))
def test_any_settings_of_mlx_lm_are_read_or_told(document: Any, tmp_path: Path) -> None:
    tensors = {"model.layers.0.self_attn.q_proj.lora_a": ([4, 2], [0, 32]), "model.layers.0.self_attn.q_proj.lora_b": ([2, 4], [32, 64])}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": place} for name, (shape, place) in tensors.items()}
    (tmp_path / "adapter_model.safetensors").unlink(missing_ok=True)
    (tmp_path / "adapters.safetensors").write_bytes(safetensors(header))
    (tmp_path / "adapter_config.json").write_text(json.dumps(document))
    told(lambda: from_mlx(tmp_path))


@EXAMPLES
@given(entry=changed({"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}), name=st.text(max_size=12))
def test_any_entry_of_a_safetensors_header_is_read_or_told(entry: Any, name: str, tmp_path: Path) -> None:
    read("safetensors", safetensors({name: entry, "__metadata__": {"format": "pt"}}), tmp_path)


@EXAMPLES
@given(events=st.lists(changed(STEP), max_size=4))
def test_any_journal_is_read_and_listed(events: list[Any], tmp_path: Path) -> None:
    read("journal", "\n".join(json.dumps(event) for event in events).encode(), tmp_path)


@EXAMPLES
@given(
    section=st.sampled_from(["model", "adapter", "data", "training"]),
    values=st.dictionaries(st.sampled_from(["r", "train", "columns", "dtype", "seed", "x"]), VALUES, max_size=3) | VALUES,
)
def test_any_run_config_is_read_or_told_with_its_field(section: str, values: Any) -> None:
    told(lambda: parse_config(json.dumps({"name": "tiny", section: values})))


@EXAMPLES
@given(
    names=st.lists(st.text(st.sampled_from("abtrain-test./0*[")), max_size=8),
    card=st.text(max_size=40) | VALUES.map(lambda value: f"---\nconfigs: {json.dumps(value)}\n---\n"),
    config=st.text(max_size=5),
    split=st.sampled_from(["train", "validation", "", "te*t"]),
)
def test_any_listing_and_card_of_a_data_set_is_chosen_from_or_told(names: list[str], card: str, config: str, split: str) -> None:
    told(lambda: within(choose_files(names, card, config, split, "someone/rows"), names))


@pytest.mark.parametrize(
    ("kind", "content", "told_of"),
    [
        ("config", b"n\tme: tiny\n", "run.yaml:1: n\tme"),
        ("safetensors", safetensors({"a": {"dtype": [], "shape": [2], "data_offsets": [0, 8]}}), "the entry of 'a' is malformed"),
        ("facts", b'{"model_type": "llama", "architectures": {"0": "A"}}', "architectures is no list of names"),
        ("facts", b'{"model_type": "llama", "text_config": {"model_type": []}}', "model_type of text_config is no name"),
    ],
    ids=["a tab in a key", "a dtype", "architectures", "a part's family"],
)
def test_what_is_wrong_is_named(kind: str, content: bytes, told_of: str, tmp_path: Path) -> None:
    name, _, reader = FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(told_of)):
        reader(tmp_path / name)


@pytest.mark.parametrize("configs", ["true", "5", "2024-99-99", "{}"])
def test_a_card_that_declares_nothing_leaves_files_to_their_names(configs: str) -> None:
    card = f"---\nconfigs: {configs}\n---\n"
    assert choose_files(["train.jsonl", "test.jsonl"], card, "", "train", "someone/rows") == ["train.jsonl"]


def test_a_pattern_of_a_card_that_is_none_is_told() -> None:
    card = "---\nconfigs: [{config_name: default, data_files: '[z-a].jsonl'}]\n---\n"
    with pytest.raises(InputError, match=re.escape("'[z-a].jsonl'")):
        choose_files(["train.jsonl"], card, "", "train", "someone/rows")
