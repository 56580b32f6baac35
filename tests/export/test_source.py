"""Finding the adapter that a path means, and refusing what is none."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.errors import InputError
from lora_studio.core.events import RunFinished, event_to_json
from lora_studio.core.files import sha256_of
from lora_studio.export.source import find_source
from lora_studio.inference.adapters import find_adapter


def make_adapter(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 4, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"base_model.model.q.lora_A.weight": torch.zeros(4, 8)}, folder / "adapter_model.safetensors")
    return folder


def make_checkpoint(run: Path, step: int) -> Path:
    """Write an adapter with the manifest that a checkpoint has."""
    folder = make_adapter(run / f"checkpoints/step-{step:06d}")
    files = {path.name: sha256_of(path) for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}), encoding="utf-8")
    return folder


def spoil(adapter: Path) -> None:
    """Change one number of an adapter's weights; the file stays one that can be read."""
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x3f")


def test_an_adapter_folder_of_anyone_names_its_base(tmp_path: Path) -> None:
    source = find_source(make_adapter(tmp_path / "mine"))
    assert (source.base_name, source.run_dir, source.label) == ("some/base", None, "mine")


def test_a_run_gives_its_final_adapter_with_its_own_config(tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    make_adapter(tmp_path / "adapter")
    source = find_source(tmp_path)
    assert source.adapter == tmp_path / "adapter"
    assert source.config == RunConfig(name="triage")
    assert source.label == "triage"


def test_a_run_without_final_adapter_gives_its_newest_checkpoint(tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    make_checkpoint(tmp_path, 10)
    make_checkpoint(tmp_path, 20)
    source = find_source(tmp_path)
    assert source.adapter.name == "step-000020"
    assert source.label == "triage, step 20"
    assert source.run_dir == tmp_path


@pytest.mark.parametrize("find", [lambda path: find_source(path).adapter, lambda path: find_adapter(str(path)).adapter])
def test_a_broken_checkpoint_is_passed_over_for_the_newest_whole_one(find: Callable[[Path], Path], tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    whole = make_checkpoint(tmp_path, 10)
    spoil(make_checkpoint(tmp_path, 20))
    assert find(tmp_path) == whole


def test_a_run_with_no_whole_checkpoint_says_what_is_wrong(tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    spoil(make_checkpoint(tmp_path, 20))
    with pytest.raises(InputError, match=r"step-000020: adapter_model\.safetensors is not what was written"):
        find_source(tmp_path)


@pytest.mark.parametrize("find", [find_source, lambda path: find_adapter(str(path))])
def test_a_broken_checkpoint_named_directly_is_refused_with_one_that_is_whole(find: Callable[[Path], object], tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    make_checkpoint(tmp_path, 10)
    broken = make_checkpoint(tmp_path, 20)
    spoil(broken)
    with pytest.raises(InputError, match=r"is broken: adapter_model\.safetensors is not what was written") as caught:
        find(broken)
    assert "step-000010, which is whole" in caught.value.hint


def test_a_checkpoint_copied_elsewhere_is_checked_too(tmp_path: Path) -> None:
    copied = make_checkpoint(tmp_path, 20).rename(tmp_path / "copied")
    assert find_source(copied).run_dir is None
    spoil(copied)
    with pytest.raises(InputError, match="is not what was written"):
        find_source(copied)


@pytest.mark.parametrize("place", [".", "adapter"])
def test_a_final_adapter_other_than_its_run_finished_with_is_refused(place: str, tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    adapter = make_adapter(tmp_path / "adapter")
    make_checkpoint(tmp_path, 20)
    digest = sha256_of(adapter / "adapter_model.safetensors")
    (tmp_path / "events.jsonl").write_text(event_to_json(RunFinished(result={"adapter_sha256": digest})) + "\n", encoding="utf-8")
    assert find_source(tmp_path / place).adapter == adapter
    spoil(adapter)
    with pytest.raises(InputError, match="adapter is broken") as caught:
        find_source(tmp_path / place)
    assert "step-000020, which is whole" in caught.value.hint


def test_a_checkpoint_knows_its_run(tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    assert find_source(make_adapter(tmp_path / "checkpoints/step-000010")).run_dir == tmp_path


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}'), "only LORA"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "does not name its base"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "neither a run nor a PEFT adapter"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{"), "adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"), "pickle"),
    ],
)
def test_what_is_no_sound_adapter_is_refused_by_name(tmp_path: Path, break_it, told: str) -> None:
    folder = make_adapter(tmp_path / "mine")
    break_it(folder)
    with pytest.raises(InputError, match=told):
        find_source(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        find_source(tmp_path / "nowhere")


def test_a_run_that_has_saved_nothing_says_so(tmp_path: Path) -> None:
    write_config(tmp_path / "run.yaml", RunConfig(name="triage"))
    with pytest.raises(InputError, match="no adapter yet"):
        find_source(tmp_path)
