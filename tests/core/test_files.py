"""Files and folders are whole or absent, whatever interrupts their writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.files import bytes_below, sha256_of, sweep, whole_folder, write_atomically


class InterruptedWriteError(Exception):
    pass


def interrupt(*_arguments: object) -> None:
    raise InterruptedWriteError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_atomically(tmp_path / "deep" / "a.txt", "ä\n≤\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "ä\n≤\n".encode()


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_write_keeps_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    write_atomically(tmp_path / "a", "old")
    with monkeypatch.context() as patch:
        patch.setattr(moment, interrupt)
        with pytest.raises(InterruptedWriteError):
            write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_has_its_name_only_when_it_is_filled(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_folder(target) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "a").read_text() == "1"
    assert names(tmp_path) == ["model"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def fill_half() -> None:
        with whole_folder(tmp_path / "model") as folder:
            (folder / "a").write_text("1")
            raise InterruptedWriteError

    with pytest.raises(InterruptedWriteError):
        fill_half()
    assert names(tmp_path) == []


def test_a_folder_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept").write_text("precious")
    with pytest.raises(InputError, match="exists already"), whole_folder(tmp_path / "model"):
        raise AssertionError("the block ran")
    assert names(tmp_path) == ["model"]


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    with whole_folder(tmp_path / "model", overwrite=True) as folder:
        (folder / "new").write_text("")
    assert names(tmp_path / "model") == ["new"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced_by_a_folder(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(InputError, match="exists already"), whole_folder(tmp_path / "model", overwrite=overwrite):
        raise AssertionError("the block ran")
    assert names(tmp_path) == ["model"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    move = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError("in use")
        return move(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="in use"), whole_folder(tmp_path / "model", overwrite=True):
        pass
    assert names(tmp_path / "model") == ["old"]
    assert names(tmp_path) == ["model"]


def test_an_interrupted_overwrite_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("")
    with pytest.raises(InterruptedWriteError), whole_folder(tmp_path / "model", overwrite=True):
        raise InterruptedWriteError
    assert names(tmp_path / "model") == ["old"]
    assert names(tmp_path) == ["model"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def fill_while_another_does() -> None:
        with whole_folder(target) as folder:
            (folder / "mine").write_text("")
            target.mkdir()
            (target / "theirs").write_text("")

    with pytest.raises(InputError):
        fill_while_another_does()
    assert names(target) == ["theirs"]
    assert names(tmp_path) == ["model"]


def test_a_parent_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=str(tmp_path / "file")), whole_folder(tmp_path / "file" / "model"):
        raise AssertionError("the block ran")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_finished_folder_can_be_read_by_others(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_hashes_and_sizes_are_those_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "sub" / "b").write_bytes(b"x" * (3 << 20))
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert bytes_below(tmp_path) == 3 + (3 << 20)


def test_what_killed_writers_left_is_swept_and_what_they_had_moved_aside_comes_back(tmp_path: Path) -> None:
    for name in (".adapter.0123abcd.part", ".step-000002.0123abcd.old", ".step-000003.0123abcd.old", "step-000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".data.json.89abcdef.part").write_text("{")
    for name in (".hidden", "adapter.0123abcd.part", ".adapter.part"):
        (tmp_path / name).write_text("somebody's own")
    sweep(tmp_path, ("adapter",))
    assert len(list(tmp_path.iterdir())) == 7
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "adapter.0123abcd.part", ".adapter.part", "step-000002", "step-000003"}
    assert (tmp_path / "step-000002" / "file").read_text() == "step-000002"
    assert (tmp_path / "step-000003" / "file").read_text() == ".step-000003.0123abcd.old"
    sweep(tmp_path / "missing")
