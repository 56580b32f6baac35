"""The config is frozen, checked as a whole, and the same on screen, in YAML and in the run's folder."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lora_studio.core.config import RunConfig, field_info, field_paths
from lora_studio.core.config_files import config_to_yaml, field_errors, parse_config, read_config, write_config
from lora_studio.core.errors import InputError


def test_every_leaf_has_a_title_and_a_description() -> None:
    paths = list(field_paths())
    assert len(paths) > 40
    for path in paths:
        assert field_info(path).title, path
        assert field_info(path).description, path


def test_a_path_that_names_no_field_is_refused() -> None:
    with pytest.raises(KeyError):
        field_info("adapter.rank")
    with pytest.raises(KeyError):
        RunConfig().replace({"adapter.rank": 4})


def test_coupled_fields_change_at_once_and_the_old_config_stays() -> None:
    before = RunConfig()
    after = before.replace({"adapter.r": 32, "adapter.lora_alpha": 64, "name": "wide"})
    assert (after.adapter.r, after.adapter.lora_alpha, after.name) == (32, 64, "wide")
    assert (before.adapter.r, before.name) == (8, "untitled")
    assert set(before.differences(after)) == {"name", "adapter.r", "adapter.lora_alpha"}


def test_nothing_in_a_config_can_be_changed() -> None:
    config = RunConfig().replace({"adapter.rank_pattern": {"q_proj": 4}})
    with pytest.raises(ValidationError):
        config.adapter.r = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.adapter.rank_pattern["q_proj"] = 8
    with pytest.raises(TypeError):
        config.adapter.rank_pattern.clear()
    assert isinstance(config.adapter.target_modules, tuple)
    assert isinstance(hash(config), int)


def test_a_config_survives_pickling() -> None:
    config = RunConfig().replace({"adapter.rank_pattern": {"q_proj": 4}})
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("adapter.r", 0),
        ("adapter.r", 2.5),
        ("adapter.lora_alpha", 0),
        ("adapter.lora_dropout", 1.0),
        ("adapter.lora_dropout", -0.1),
        ("adapter.bias", "some"),
        ("adapter.rank_pattern", {"q": 0}),
        ("training.learning_rate", float("nan")),
        ("training.learning_rate", float("inf")),
        ("training.per_device_train_batch_size", 0),
        ("training.seed", -1),
        ("data.max_length", 1),
        ("data.eval_fraction", 1.0),
        ("name", ""),
        ("name", "../up"),
        ("name", "a/b"),
        ("model.name_or_path", ""),
        ("schema_version", 2),
    ],
)
def test_a_value_out_of_range_is_found_at_its_field(path: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        RunConfig().replace({path: value})
    assert list(field_errors(caught.value)) == [path]


def test_a_single_name_stands_for_a_list_of_one() -> None:
    assert parse_config("adapter: {target_modules: q_proj}\ndata: {train: rows.jsonl}").adapter.target_modules == ("q_proj",)
    assert parse_config("adapter: {target_modules: all-linear}").adapter.target_modules in ("all-linear", ("all-linear",))


def test_a_number_with_an_exponent_and_no_dot_is_a_number() -> None:
    assert parse_config("training: {learning_rate: 1e-4}").training.learning_rate == 1e-4


@pytest.mark.parametrize(("written", "meant"), [("true", "full"), ("false", "off"), ("off", "off"), ("on", "full"), ("layers", "layers")])
def test_gradient_checkpointing_reads_as_older_files_have_it(written: str, meant: str) -> None:
    config = parse_config(f"training: {{gradient_checkpointing: {written}}}")
    assert config.training.gradient_checkpointing == meant
    assert parse_config(config_to_yaml(config)) == config


PATTERNS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1)


@given(
    st.fixed_dictionaries(
        {
            "name": st.from_regex(r"\A[a-zä][a-z0-9_ .+-]{0,20}\Z"),
            "adapter.r": st.integers(1, 65536),
            "adapter.lora_dropout": st.floats(0, 0.999),
            "adapter.rank_pattern": st.dictionaries(PATTERNS, st.integers(1, 99)),
            "training.learning_rate": st.floats(1e-12, 10),
            "training.seed": st.integers(0, 2**63 - 1),
            "training.gradient_checkpointing": st.sampled_from(["auto", "off", "layers", "full"]),
            "data.train": st.lists(st.sampled_from(["a.jsonl", "b c.csv", "ü.json"])),
        }
    )
)
def test_a_config_written_as_yaml_reads_back_equal(changes: dict[str, object]) -> None:
    config = RunConfig().replace(changes)
    assert parse_config(config_to_yaml(config)) == config


def test_paths_in_a_file_are_taken_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "run.yaml").write_text("model: {name_or_path: model}\ndata: {train: [rows.jsonl, /abs/rows.jsonl]}")
    config = read_config(tmp_path / "run.yaml")
    assert config.model.name_or_path == str(tmp_path / "model")
    assert config.data.train == (str(tmp_path / "rows.jsonl"), "/abs/rows.jsonl")


def test_a_hub_id_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {name_or_path: org/model}")
    assert read_config(tmp_path / "run.yaml").model.name_or_path == "org/model"


def test_a_written_file_reads_back_equal(tmp_path: Path) -> None:
    config = RunConfig().replace({"data.train": [str(tmp_path / "rows.jsonl")], "adapter.rank_pattern": {r"layers\.0\.q_proj": 2}})
    write_config(tmp_path / "run.yaml", config)
    assert read_config(tmp_path / "run.yaml") == config


def test_every_fault_is_listed_with_its_line() -> None:
    with pytest.raises(InputError) as caught:
        parse_config("name: x\nadapter:\n  r: 0\n  rank: 3\ntraining:\n  seed: -1\n", "run.yaml")
    assert "run.yaml:3: adapter.r" in caught.value.message
    assert "run.yaml:4: adapter.rank is no setting" in caught.value.message
    assert "run.yaml:6: training.seed" in caught.value.message
    assert caught.value.field == "adapter.r"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1,\nb: 2", "run.yaml:2"),
        ("", "mapping"),
        ("- 1", "mapping"),
        ("schema_version: 7", "schema_version 7"),
        ("name: 2026-13-45", "YAML"),
        ("[" * 1_500, "YAML"),
        ("!!python/object/apply:os.system [echo]", "YAML"),
        ("1: 2", "run.yaml"),
    ],
)
def test_text_that_is_no_config_is_told_by_file(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_config(text, "run.yaml")
    assert told in caught.value.message
    assert "run.yaml" in caught.value.message


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_config(tmp_path / "run.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(5 << 20)
    with pytest.raises(InputError, match="too large"):
        read_config(tmp_path / "large.yaml")
