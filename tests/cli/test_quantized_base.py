"""A base that is quantized in its own files, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_studio.cli.main import main
from tests.models.packed_folders import save_packed_model, tell
from tests.tiny import save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


def test_inspect_says_what_the_weights_are_in_and_shows_the_whole_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_packed_model(tmp_path / "packed", "awq")
    assert main(["inspect", str(tmp_path / "packed"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"]["quantization"], found["model"]["findings"]) == ("4 bits (AWQ)", [])
    shapes = {module["name"]: module["shape"] for module in found["modules"]}
    assert shapes["model.layers.0.mlp.down_proj"] == [32, 48]


def test_inspect_of_weights_that_are_not_read_shows_the_tree_and_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny_model(tmp_path / "tiny")
    tell(folder, {"quant_method": "quanto"})
    assert main(["inspect", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "error: The base model is quantized already: weights quantized by quanto are not read here." in told
    assert "Choose the model in full precision" in told
    assert "q_proj" in told
