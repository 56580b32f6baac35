"""`import` and `push` as a person meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.adapters.saved_adapter import SavedAdapter
from lora_studio.core.paths import studio_paths
from tests.cli.conftest import Command
from tests.export.handmade import save_image_adapter, write_adapter

Tiny = Callable[[str], Path]


@pytest.fixture
def adapter(tiny_model: Tiny, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "style", base_model_name_or_path=str(tiny_model("llama")))


def test_import_says_where_the_adapter_is_kept_and_for_which_base(command: Command, adapter: Path, tiny_model: Tiny) -> None:
    done = command("import", adapter)
    assert done.status == 0
    assert f"style: {studio_paths().adapters / 'style'}" in done.out
    assert f"for {tiny_model('llama')}" in done.out


def test_import_json_is_one_document_with_what_was_found(command: Command, tiny_model: Tiny, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "style", base_model_name_or_path="somebody/else")
    done = command("import", adapter, "--base", tiny_model("llama"), "--name", "mine", "--json")
    document = done.document
    assert (document["name"], document["base"]) == ("mine", str(tiny_model("llama")))
    assert [finding["code"] for finding in document["findings"]] == ["other_base"]
    assert document["bytes"] > 1000


def test_an_imported_adapter_is_exported_by_its_folder(command: Command, adapter: Path, tmp_path: Path) -> None:
    kept = command("import", adapter, "--json").document["path"]
    done = command("export", kept, "--as", "merged", "--to", tmp_path / "merged", "--json")
    assert done.document["certificate"]["passed"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing.zip"], "There is no"),
        (["style", "--base", "nowhere/at-all/x"], "no folder or file"),
        (["style", "--name", "../x"], "no name for an adapter"),
    ],
)
def test_an_import_that_cannot_be_is_wrong_input(
    arguments: list[str], told: str, command: Command, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter.parent)
    done = command("import", *arguments)
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("repo_id", "token", "offline", "told"),
    [
        ("triage", "hf_x", "", "no name of a repository"),
        ("me/triage", "", "", "no Hub token"),
        ("me/triage", "hf_x", "1", "switched off"),
    ],
)
def test_a_push_that_cannot_be_is_wrong_input(
    repo_id: str, token: str, offline: str, told: str, command: Command, adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("HF_TOKEN", token), ("HF_HUB_OFFLINE", offline), ("HF_HOME", str(tmp_path / "hub"))):
        monkeypatch.setenv(name, value)
    certificate = {"verdict": "exact", "rows_from": "general text", "tensors_checked": 4, "passed": True}
    (adapter / "certificate.json").write_text(json.dumps(certificate), encoding="utf-8")
    done = command("push", adapter, repo_id)
    assert (done.status, done.out) == (2, "")
    assert told in done.err


def test_what_did_not_pass_is_not_pushed(command: Command, adapter: Path) -> None:
    certificate = {"verdict": "failed", "rows_from": "general text", "tensors_checked": 4, "passed": False, "reason": "logits differ"}
    (adapter / "certificate.json").write_text(json.dumps(certificate), encoding="utf-8")
    done = command("push", adapter, "me/triage")
    assert done.status == 2
    assert "did not pass its certificate: logits differ" in done.err


def test_import_takes_the_text_part_alone_of_an_adapter_for_images_where_it_is_asked_to(command: Command, tmp_path: Path) -> None:
    adapter = save_image_adapter(tmp_path / "style", tmp_path / "base")
    refused = command("import", adapter)
    assert refused.status == 2
    assert "model.visual.blocks.0.attn.qkv" in refused.err
    assert "--text-only" in refused.err
    taken = command("import", adapter, "--text-only", "--json").document
    assert [finding["code"] for finding in taken["findings"]] == ["other_class", "text_only"]
    assert list(SavedAdapter.open(Path(taken["path"])).pairs) == ["model.layers.1.mlp.down_proj"]
