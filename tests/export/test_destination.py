"""Only a free name, an empty folder or an earlier export is ever taken: nothing else is deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.export.destination import alone_at, check_destination, is_earlier_export
from lora_studio.export.task import export
from tests.export.test_source import make_adapter

CERTIFICATE = json.dumps({"verdict": "exact", "rows_from": "general text", "tensors_checked": 0})


@pytest.fixture
def desk(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run and its adapter, a base model, a working directory and a person's own folder and file."""
    shutil.copytree(tiny_model("llama"), tmp_path / "models/base")
    config = RunConfig(name="triage").replace({"model.name_or_path": str(tmp_path / "models/base")})
    (tmp_path / "runs/triage").mkdir(parents=True)
    write_config(tmp_path / "runs/triage/run.yaml", config)
    make_adapter(tmp_path / "runs/triage/adapter")
    for name in ("working/project", "mine"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "precious.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "working/project")
    return tmp_path


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("certified", [False, True])
@pytest.mark.parametrize(
    "place",
    [
        "mine",
        "file",
        "models/base",
        "models",
        "runs/triage/adapter",
        "runs/triage",
        "runs",
        "working/project",
        "working",
        ".",
    ],
)
def test_replacing_takes_no_folder_but_an_earlier_export(place: str, certified: bool, desk: Path) -> None:
    target = desk / place
    if certified and place not in ("mine", "file"):  # what is needed stays, whatever lies in it
        (target / "certificate.json").write_text(CERTIFICATE)
    before = everything(desk)
    with pytest.raises(InputError) as caught:
        list(export(TaskContext(), str(desk / "runs/triage"), "adapter", str(target), overwrite=True))
    assert str(target.resolve()) in caught.value.message
    assert caught.value.field == "to"
    assert everything(desk) == before


@pytest.mark.parametrize("to", ["", "  ", "."])
def test_no_place_is_not_the_working_directory(to: str, desk: Path) -> None:
    with pytest.raises(InputError):
        list(export(TaskContext(), str(desk / "runs/triage"), "adapter", to, overwrite=True))
    assert (desk / "working/project/precious.txt").exists()


def test_a_free_name_and_an_empty_folder_may_be_taken(tmp_path: Path) -> None:
    check_destination(tmp_path / "free", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_destination(tmp_path / "empty", overwrite=False)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"verdict": "exact"}'])
def test_a_certificate_of_something_else_is_not_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text(text)
    assert not is_earlier_export(tmp_path)


def test_two_exports_to_one_place_do_not_meet(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="Another export is writing to")
    with alone_at(tmp_path / "there"), alone_at(tmp_path / "elsewhere"), refused, alone_at(tmp_path / "there"):
        pass
    with alone_at(tmp_path / "there"):
        pass


def test_what_a_killed_export_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".there.0123abcd.part"
    left.mkdir()
    (tmp_path / ".other.0123abcd.part").mkdir()
    with alone_at(tmp_path / "there"):
        assert not left.exists()
        assert (tmp_path / ".other.0123abcd.part").exists()
