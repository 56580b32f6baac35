"""A base that is quantized in its own files, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command, WriteConfig
from tests.models.packed_folders import save_packed_model, tell
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


def test_inspect_says_what_the_weights_are_in_and_shows_the_whole_tree(command: Command, tmp_path: Path) -> None:
    save_packed_model(tmp_path / "packed", "awq")
    found = command("inspect", tmp_path / "packed", "--json").document
    assert (found["model"]["quantization"], found["model"]["findings"]) == ("4 bits (AWQ)", [])
    shapes = {module["name"]: module["shape"] for module in found["modules"]}
    assert shapes["model.layers.0.mlp.down_proj"] == [32, 48]


def test_inspect_of_weights_that_are_not_read_shows_the_tree_and_the_way_out(command: Command, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    tell(folder, {"quant_method": "quanto"})
    told = command("inspect", folder)
    assert told.status == 0
    assert "error: The base model is quantized already: weights quantized by quanto are not read here." in told.out
    assert "Choose the model in full precision" in told.out
    assert "q_proj" in told.out


@pytest.mark.parametrize("method", ["hqq", "quanto", "torchao"])
def test_plan_and_train_refuse_weights_that_are_not_read_here_by_the_same_words(
    command: Command, write_config: WriteConfig, tmp_path: Path, method: str
) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    tell(folder, {"quant_method": method})
    config = write_config(model__name_or_path=str(folder))
    planned, refused = command("plan", config), command("train", config, "--output", tmp_path / "run")
    for told in (planned, refused):
        assert told.status == 2
        assert f"The base model is quantized already: weights quantized by {method} are not read here." in told.err
        assert "Choose the model in full precision." in told.err
    assert not (tmp_path / "run").exists()
