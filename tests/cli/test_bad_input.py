"""Bad input: exit status 2, one message that names the thing and the way out, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import read_config
from lora_studio.core.events import RunFinished, event_to_json
from lora_studio.core.paths import studio_paths
from lora_studio.core.run_store import RunStore
from tests.cli.conftest import Command, Outcome, WriteConfig

ModelOf = Callable[[str], Path]


def refused(outcome: Outcome, *named: object) -> None:
    assert outcome.status == 2, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert outcome.err.count("lora-studio: ") == 1
    told = outcome.err[outcome.err.index("lora-studio: ") :]
    for name in named:
        assert str(name) in told
    assert len(told.strip().splitlines()) >= 2, "no way out is named"


def no_run_is_left() -> bool:
    root = studio_paths().runs
    return not root.exists() or [path for path in root.iterdir() if path.is_dir()] == []


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def missing(folder: Path) -> None:
    shutil.rmtree(folder)


def no_model(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def unknown_family(folder: Path) -> None:
    change_config(folder, model_type="nonesuch", architectures=["NonesuchForCausalLM"])


def remote_code(folder: Path) -> None:
    change_config(folder, auto_map={"AutoModelForCausalLM": "modeling.Mine"}, model_type="mine")
    (folder / "modeling.py").write_text("raise SystemExit('code of the model was run')")


@pytest.mark.parametrize("damage", [missing, no_model, no_weights, cut_weights, unknown_family, remote_code])
@pytest.mark.parametrize("name", ["train", "plan", "inspect"])
def test_a_model_that_cannot_be_used_is_named(
    command: Command,
    write_config: WriteConfig,
    tiny_model: ModelOf,
    tmp_path: Path,
    damage: Callable[[Path], None],
    name: str,
) -> None:
    if damage is no_weights and name != "train":
        pytest.skip("inspect and plan need no weights")
    model = copy_of(tiny_model("llama"), tmp_path / "model")
    damage(model)
    what = model if name == "inspect" else write_config(model__name_or_path=str(model))
    refused(command(name, what), model)
    assert no_run_is_left()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "rows.jsonl"),
        ("not json\n" * 3, "rows.jsonl:1"),
        ('{"messages": []}\n', "rows.jsonl:1"),
        ('{"other": 1}\n', "rows.jsonl:1"),
        (None, "rows.jsonl"),
    ],
)
def test_data_that_cannot_be_used_is_named_by_file_and_line(
    command: Command, write_config: WriteConfig, tmp_path: Path, content: str | None, told: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    if content is not None:
        rows.write_text(content)
    refused(command("train", write_config(data__train=[str(rows)])), told)
    assert no_run_is_left()


def test_one_bad_row_among_good_ones_stops_the_training(
    command: Command, write_config: WriteConfig, chat_rows: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(chat_rows.read_text() + '{"messages": [{"role": "user", "content": "and?"}]}\n')
    refused(command("train", write_config(data__train=[str(rows)])), f"{rows}:25")
    assert no_run_is_left()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("adapter__r", 0),
        ("adapter__lora_alpha", 0),
        ("adapter__lora_alpha", -1),
        ("adapter__lora_dropout", 1.0),
        ("adapter__lora_dropout", -0.1),
        ("adapter__rank", 8),
        ("training__learning_rate", 0),
        ("training__learning_rate", "fast"),
        ("data__max_length", 1),
        ("training__seed", -1),
    ],
)
@pytest.mark.parametrize("name", ["train", "plan", "data"])
def test_a_setting_out_of_range_is_named_with_file_and_line(
    command: Command, write_config: WriteConfig, path: str, value: object, name: str
) -> None:
    config = write_config(**{path: value})
    field = path.split("__")[1]
    line = next(number for number, text in enumerate(config.read_text().splitlines(), 1) if text.strip().startswith(f"{field}:"))
    refused(command(name, config), f"{config}:{line}", path.replace("__", "."))
    assert no_run_is_left()


@pytest.mark.parametrize("name", ["train", "plan"])
def test_a_target_that_matches_nothing_is_named(command: Command, write_config: WriteConfig, name: str) -> None:
    outcome = command(name, write_config(adapter__target_modules=["query_key_value"]))
    assert outcome.status == 2
    assert "query_key_value" in outcome.err
    assert "Traceback" not in outcome.err
    assert no_run_is_left()


def test_a_plan_that_cannot_be_trained_is_still_one_document(command: Command, write_config: WriteConfig) -> None:
    outcome = command("plan", write_config(adapter__target_modules=["query_key_value"]), "--json")
    assert outcome.status == 2
    assert [finding["level"] for finding in outcome.document["findings"]].count("error") >= 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("adapter: [1, 2\nname: x", ":2"),
        ("just words", "mapping"),
        ("schema_version: 9", "schema_version"),
        ("name: ''", "name"),
        ("name: 2026-99-99", "YAML"),
        ("unknown: 1", "unknown"),
        ("adapter: 3", "adapter"),
    ],
)
def test_a_config_that_is_none_is_named(command: Command, tmp_path: Path, content: str, told: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(content)
    refused(command("train", config), config, told)


def test_a_config_that_does_not_exist_is_named(command: Command, tmp_path: Path) -> None:
    refused(command("train", tmp_path / "none.yaml"), tmp_path / "none.yaml")


def test_a_folder_for_a_config_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("train", tmp_path), tmp_path)


def test_an_output_that_holds_something_is_refused_untouched(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "work.txt").write_text("precious")
    refused(command("train", write_config(), "--output", tmp_path / "out"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["work.txt"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses even root")
def test_an_output_that_cannot_be_written_is_named(command: Command, write_config: WriteConfig) -> None:
    refused(command("train", write_config(), "--output", "/proc/run"), "/proc/run")


def test_training_without_a_config_says_what_to_give(command: Command) -> None:
    refused(command("train"), "RUN.yaml")


def test_the_same_bad_input_fails_alike_in_a_process(command: Command, write_config: WriteConfig) -> None:
    refused(command("train", write_config(adapter__target_modules=["query_key_value"]), "--host", "process"), "query_key_value")
    assert no_run_is_left()


def test_asking_for_json_leaves_standard_output_empty_on_an_error(command: Command, tiny_model: ModelOf, tmp_path: Path) -> None:
    model = copy_of(tiny_model("llama"), tmp_path / "model")
    no_model(model)
    refused(command("inspect", model, "--json"), model)


@pytest.mark.parametrize("kind", ["finished", "nowhere", "no run"])
def test_resuming_what_cannot_go_on_says_why(command: Command, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "run"
    if kind == "finished":
        folder = RunStore(tmp_path).create(RunConfig(), place)
        folder.events_path.write_text(event_to_json(RunFinished()) + "\n")
    elif kind == "no run":
        place.mkdir()
    refused(command("train", "--resume", place), place)


def test_resuming_with_other_settings_names_them(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    config = write_config()
    folder = RunStore(tmp_path / "runs").create(read_config(config))
    tree = yaml.safe_load(config.read_text())
    tree["adapter"]["r"] = 16
    config.write_text(yaml.safe_dump(tree))
    refused(command("train", config, "--resume", folder.path), "adapter.r")


def test_a_config_as_old_as_its_run_differs_in_no_setting_that_came_later(
    command: Command,
    write_config: WriteConfig,
    tmp_path: Path,
) -> None:
    config = write_config()
    folder = RunStore(tmp_path / "runs").create(read_config(config))
    old = yaml.safe_load(folder.config_path.read_text())
    for name in ("chat_template_kwargs", "on_unwritten", "answer_opening"):
        del old["data"][name]
    folder.config_path.write_text(yaml.safe_dump(old))
    tree = yaml.safe_load(config.read_text())
    tree["adapter"]["r"] = 16
    config.write_text(yaml.safe_dump(tree))
    refused(command("train", config, "--resume", folder.path), " in adapter.r.")


@pytest.mark.parametrize("source", ["nowhere", "empty", "untrained"])
def test_exporting_what_holds_no_adapter_says_so(command: Command, write_config: WriteConfig, tmp_path: Path, source: str) -> None:
    place = tmp_path / "source"
    if source == "empty":
        place.mkdir()
    elif source == "untrained":
        RunStore(tmp_path).create(RunConfig(), place)
    refused(command("export", place, "--as", "merged", "--to", tmp_path / "merged"), place.name)
    assert not (tmp_path / "merged").exists()


def test_exporting_over_something_is_refused_untouched(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    (target / "work.txt").write_text("precious")
    refused(command("export", tmp_path, "--as", "merged", "--to", target), target)
    assert (target / "work.txt").read_text() == "precious"


def test_an_answer_of_no_tokens_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("chat", tmp_path, "--prompt", "hello", "--max-new-tokens", "0")
    assert done.status == 2
    assert "--max-new-tokens" in done.err


def test_chat_with_nothing_is_refused(command: Command, tmp_path: Path) -> None:
    refused(command("chat", tmp_path / "nowhere", "--prompt", "hello"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--host", "cloud"],
        ["export", "x", "--as", "zip", "--to", "y"],
        ["inspect"],
        ["runs", "--nonsense"],
    ],
)
def test_arguments_that_make_no_sense_are_told_with_the_usage(command: Command, arguments: list[str]) -> None:
    outcome = command(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith("usage: lora-studio")
    assert outcome.out == ""
