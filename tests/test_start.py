"""The set-up script: what it decides, without installing anything."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "start.py"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, with an environment folder of its own."""
    spec = importlib.util.spec_from_file_location("start_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "STAMP", tmp_path / ".venv" / "lora-studio-setup.json")
    return module


def finish_setup(start: ModuleType, extras: tuple[str, ...]) -> None:
    start.venv_python().parent.mkdir(parents=True)
    start.venv_python().touch()
    start.STAMP.write_text(json.dumps({"wanted": start.wanted(), "extras": extras}))


def test_imports_nothing_but_the_standard_library() -> None:
    names = {line.split()[1].split(".")[0] for line in SCRIPT.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))}
    assert names <= set(sys.stdlib_module_names)


def test_a_finished_setup_runs_no_step_again(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_setup(start, ("test",))
    monkeypatch.setattr(start, "make_environment", lambda: pytest.fail("set up again"))
    start.set_up(extras=())
    start.set_up(extras=("test",))


def test_a_changed_project_file_is_set_up_again(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_setup(start, ())
    monkeypatch.setattr(start, "wanted", lambda: "something else")
    assert start.installed_parts() is None


def test_the_test_parts_are_added_to_what_is_there(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    finish_setup(start, ())
    installed: list[tuple[str, ...]] = []
    for step in ("install_system_libraries", "make_environment", "install_torch", "install_starter"):
        monkeypatch.setattr(start, step, lambda: None)
    monkeypatch.setattr(start, "install_project", installed.append)
    start.set_up(extras=("test",))
    assert installed == [("test",)]
    assert start.installed_parts() == ("test",)


def test_the_torch_requirement_is_the_projects(start: ModuleType) -> None:
    assert start.torch_requirement() == "torch>=2.11,<2.14"


@pytest.mark.parametrize(
    ("platform", "driver", "right"), [("darwin", False, True), ("win32", False, True), ("win32", True, False), ("linux", True, True)]
)
def test_pips_own_build_is_taken_where_it_fits_the_machine(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, platform: str, driver: bool, right: bool
) -> None:
    monkeypatch.setattr(start.sys, "platform", platform)
    monkeypatch.setattr(start, "has_nvidia_driver", lambda: driver)
    assert start.index_offers_right_build("torch") is right


def test_without_root_the_missing_libraries_are_named_in_one_line(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "missing_packages", lambda: ["libegl1", "libxcb-cursor0"])
    monkeypatch.setattr(start.shutil, "which", lambda _name: "/usr/bin/apt-get")
    monkeypatch.setattr(start.os, "geteuid", lambda: 1000)
    start.install_system_libraries()
    assert "sudo apt-get install -y --no-install-recommends libegl1 libxcb-cursor0" in capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_missing(start: ModuleType) -> None:
    assert not start.can_load("libthere-is-none.so.9")


def test_an_old_python_is_refused_with_the_way_out(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start.sys, "version_info", (3, 10, 4))
    with pytest.raises(start.SetupError, match=r"Python 3\.10\.4; LoRA Studio needs 3\.11"):
        start.check_python()


def test_downloads_are_told_with_size_and_time_left(start: ModuleType) -> None:
    kept: list[str] = []
    lines = ["Collecting torch\n", "  Downloading torch-2.13.0-cp311.whl (190.0 MB)\n", "Progress 95000000 of 190000000\n"]
    assert list(start.readable_progress(lines, kept)) == ["      torch 95 of 190 MB"]
    assert kept == lines[:2]
    assert start.progress_text(10_000_000, 40_000_000, 2.0) == "10 of 40 MB, 6 s left"
    assert start.duration(125) == "2 min 5 s"


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot replace itself there, and has no SIGINT of its own")
def test_ctrl_c_reaches_the_program_alone_which_may_save_its_work(tmp_path: Path) -> None:
    script = tmp_path / "works.py"
    script.write_text(
        "import sys, time\ntry:\n    print('begun', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n"
        "    time.sleep(1)\n    print('saved', flush=True)\n    sys.exit(130)\n"
    )
    code = f"import start; start.become([{sys.executable!r}, {str(script)!r}])"
    with heeded_interrupts():
        started = subprocess.Popen(
            [sys.executable, "-c", code], cwd=SCRIPT.parent, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    assert started.stdout is not None
    assert started.stdout.readline() == "begun\n"
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    assert started.stdout.read() == "saved\n"
    assert started.wait(30) == 130


@contextlib.contextmanager
def heeded_interrupts() -> Iterator[None]:
    """Have children heed interrupts: a shell that starts the tests in the background has them ignored, which is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
