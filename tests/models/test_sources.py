from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.settings import STARTER_MODEL
from lora_studio.hub.cache import hub_cache_folder
from lora_studio.models.sources import find_model, local_models

COMMIT = "f" * 40


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def put_into_hub_cache(folder: Path, repo_id: str) -> Path:
    root = hub_cache_folder() / ("models--" + repo_id.replace("/", "--"))
    (root / "snapshots").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (root / "snapshots" / COMMIT).symlink_to(folder, target_is_directory=True)
    return root / "snapshots" / COMMIT


def test_folder_is_found_ready(tiny_model: Callable[[str], Path]) -> None:
    source = find_model(str(tiny_model("llama")))
    assert (source.kind, source.path, source.ready, source.needs) == ("folder", tiny_model("llama"), True, "")


def test_relative_folder_is_given_as_an_absolute_path(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model("llama").parent)
    assert find_model("llama").path == tiny_model("llama")


def test_starter_comes_from_its_wheel_by_name_and_by_hub_id(starter_gguf: Path) -> None:
    for name in ("starter", STARTER_MODEL):
        source = find_model(name)
        assert (source.kind, source.name, source.file, source.needs) == ("starter", STARTER_MODEL, starter_gguf, "convert")


def test_starter_in_the_hub_cache_wins_over_the_wheel(tiny_model: Callable[[str], Path]) -> None:
    snapshot = put_into_hub_cache(tiny_model("llama"), STARTER_MODEL)
    source = find_model(STARTER_MODEL)
    assert (source.kind, source.path, source.commit) == ("hub_cache", snapshot, COMMIT)


def test_starter_at_a_revision_is_never_the_wheels(starter_gguf: Path) -> None:
    assert find_model(STARTER_MODEL, "v1").kind == "hub"


def test_starter_without_its_wheel_is_a_hub_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.models.sources.starter_file", lambda: None)
    source = find_model("starter")
    assert (source.kind, source.name, source.needs) == ("hub", STARTER_MODEL, "download")


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME"])
def test_hub_cache_is_where_the_environment_says(
    variable: str, tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    snapshot = put_into_hub_cache(tiny_model("qwen3"), "someone/qwen")
    assert snapshot.is_relative_to(tmp_path / "elsewhere")
    assert find_model("someone/qwen").path == snapshot


def test_snapshot_with_only_a_config_has_to_be_downloaded(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "model.safetensors").unlink()
    put_into_hub_cache(folder, "someone/part")
    assert (find_model("someone/part").needs, find_model("someone/part").ready) == ("download", False)


def test_local_models_leave_out_damaged_and_foreign_ones(tiny_model: Callable[[str], Path], model_copy: Callable[..., Path]) -> None:
    put_into_hub_cache(tiny_model("llama"), "someone/sound")
    damaged = model_copy("qwen3")
    (damaged / "config.json").write_text("{", encoding="utf-8")
    put_into_hub_cache(damaged, "someone/damaged")
    encoder = model_copy("mistral")
    change_json(encoder / "config.json", architectures=["BertModel"])
    put_into_hub_cache(encoder, "someone/encoder")
    names = [source.name for source in local_models() if source.kind != "starter"]
    assert names == ["someone/sound"]


def test_folder_with_only_a_config_needs_weights(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "model.safetensors").unlink()
    source = find_model(str(folder))
    assert (source.path, source.ready, source.needs) == (folder, False, "weights")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing/model", "missing.gguf", "a/b/c", "bad name", "../up"])
def test_missing_path_is_named(name: str) -> None:
    with pytest.raises(InputError, match="There is no folder or file") as caught:
        find_model(name)
    assert caught.value.field == "model.name_or_path"
    assert caught.value.exit_status == 2


def test_empty_name_says_what_to_give() -> None:
    with pytest.raises(InputError, match="No base model is named"):
        find_model("  ")


@pytest.mark.parametrize("revision", ["../../etc", "a b", "/x"])
def test_revision_that_is_none_marks_its_own_field(revision: str) -> None:
    with pytest.raises(InputError, match="is no revision") as caught:
        find_model("someone/model", revision)
    assert caught.value.field == "model.revision"


def test_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no model: it has no config\.json"):
        find_model(str(tmp_path))


def test_plain_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file, not a model"):
        find_model(str(tmp_path / "notes.txt"))


def test_folder_of_gguf_files_points_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "small.Q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError) as caught:
        find_model(str(tmp_path))
    assert "small.Q8_0.gguf" in caught.value.hint


def test_adapter_folder_is_no_base_model(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="is an adapter"):
        find_model(str(folder))


@pytest.mark.parametrize("text", ['{"model_type": "llama",', "[1, 2]", '{"hidden_size": 3}', '{"model_type": 7}', "\x00\x01", ""])
def test_malformed_config_is_named(model_copy: Callable[..., Path], text: str) -> None:
    folder = model_copy()
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        find_model(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "own.Own"}},
        {"_attn_implementation_internal": "someone/kernel"},
        {"text_config": {"_attn_implementation_internal": "someone/kernel"}},
        {"_attn_implementation": "someone/kernel:run"},
        {"experts_implementation": {"": "someone/kernel"}},
        {"transformers_weights": "adapter_model.bin"},
    ],
)
def test_config_that_asks_for_code_is_refused(model_copy: Callable[..., Path], changes: dict[str, Any]) -> None:
    folder = model_copy()
    change_json(folder / "config.json", **changes)
    with pytest.raises(InputError, match=r"asks for (code|a kernel)|names other weights"):
        find_model(str(folder))


def test_a_quantized_model_is_found_whether_its_weights_are_read_here_or_not(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    change_json(folder / "config.json", quantization_config={"quant_method": "hqq"})
    assert find_model(str(folder)).ready


def test_pickled_weights_are_refused_with_the_way_out(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin") as caught:
        find_model(str(folder))
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_weights_are_named(model_copy: Callable[..., Path], kept: int) -> None:
    folder = model_copy()
    file = folder / "model.safetensors"
    os.truncate(file, kept if kept >= 0 else file.stat().st_size + kept)
    with pytest.raises(InputError, match=r"model\.safetensors is cut"):
        find_model(str(folder))


def test_missing_shard_is_named(model_copy: Callable[..., Path]) -> None:
    folder = model_copy()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InputError, match=r"misses 1 of 2 weight files, first model-00002"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["../secret.safetensors", "sub/x.safetensors", "pytorch_model.bin"])
def test_index_may_only_name_safetensors_beside_it(model_copy: Callable[..., Path], name: str) -> None:
    folder = model_copy()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    with pytest.raises(InputError, match="no safetensors file beside it"):
        find_model(str(folder))


def test_shard_without_a_tensor_of_the_index_is_incomplete(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tiny_model("llama")).save_pretrained(tmp_path, max_shard_size="60KB")
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text(encoding="utf-8"))
    table["weight_map"]["model.layers.9.extra.weight"] = next(iter(table["weight_map"].values()))
    index.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(InputError, match=r"misses the tensor model\.layers\.9\.extra\.weight"):
        find_model(str(tmp_path))


def test_finding_models_and_reading_facts_leave_the_engine_out(tiny_model: Callable[[str], Path]) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "import lora_studio.models.sources as s, lora_studio.models.facts as f, lora_studio.models.tree_cache as t\n"
        "import lora_studio.models.prepare, lora_studio.models.download, lora_studio.models.fingerprint\n"
        "s.find_model('starter'); s.local_models(); f.read_facts(Path(sys.argv[1])); t.cached_tree(Path(sys.argv[1]))\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy', 'PySide6'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model("llama"))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert ran.stdout.strip() == "[]"
