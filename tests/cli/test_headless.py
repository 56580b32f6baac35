"""The wheel, on a machine that only trains: it needs torch, transformers, peft, accelerate, pyarrow, pydantic and PyYAML, no Qt."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lora_studio.core.config_files import write_config
from tests.train.helpers import run_config

NEEDED = ("torch", "transformers", "peft", "accelerate", "pyarrow", "pydantic", "PyYAML")
REPOSITORY = Path(__file__).parents[2]


def with_what_they_need(names: tuple[str, ...]) -> set[str]:
    """Distributions that come with some, by what each says it needs."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        wanted = map(Requirement, needs)
        waiting += [need.name for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def small_installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of links to these distributions alone, and the program as its wheel installs it."""
    if sys.platform == "win32":
        pytest.skip("links need a privilege on Windows")
    folder = tmp_path_factory.mktemp("installed")
    for name in with_what_they_need(NEEDED):
        dist = distribution(name)
        for top in {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(dist.locate_file(top))).resolve())
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder / "program")]
    done = subprocess.run([sys.executable, *install, str(REPOSITORY)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def headless(small_installation: Path, studio_home: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python with that installation, and nothing else, away from the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    environment |= {"PYTHONPATH": f"{small_installation}{os.pathsep}{small_installation / 'program'}", "LORA_STUDIO_HOME": str(studio_home)}

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment | more, cwd=studio_home.parent)

    return run


def test_the_small_installation_has_no_qt_and_nothing_else(
    headless: Callable[..., subprocess.CompletedProcess[str]],
    small_installation: Path,
) -> None:
    assert "pydantic" in {path.name for path in small_installation.iterdir()}
    for module in ("PySide6", "pyqtgraph", "platformdirs", "gguf", "pynvml", "pytest"):
        done = headless("-c", f"import {module}")
        assert "ModuleNotFoundError" in done.stderr, module
    assert str(sysconfig.get_paths()["purelib"]) not in headless("-c", "import sys; print(sys.path)").stdout


def test_the_program_and_all_its_resources_come_from_the_wheel(
    headless: Callable[..., subprocess.CompletedProcess[str]],
    small_installation: Path,
) -> None:
    told = headless("-c", "from lora_studio.core.paths import resources_folder; print(resources_folder())").stdout.strip()
    assert Path(told) == small_installation / "program/lora_studio/resources"
    files = {path.relative_to(told) for path in Path(told).rglob("*") if path.is_file()}
    wanted = {path.relative_to(REPOSITORY / "resources") for path in (REPOSITORY / "resources").rglob("*") if path.is_file()}
    assert wanted <= files
    assert (small_installation / "program/bin/lora-studio").is_file()


def test_a_run_is_planned_trained_and_exported_without_a_screen(
    headless: Callable[..., subprocess.CompletedProcess[str]],
    tiny_model: Callable[[str], Path],
    chat_rows: Path,
    tmp_path: Path,
) -> None:
    config = tmp_path / "run.yaml"
    write_config(config, run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 3, "training.sample_rows": 1}))
    plan = headless("-m", "lora_studio", "plan", str(config), "--json")
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["trainable_parameters"] > 0
    trained = headless("-m", "lora_studio", "train", str(config), "--output", str(tmp_path / "run"))
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    merged = headless("-m", "lora_studio", "export", str(tmp_path / "run"), "--as", "merged", "--to", str(tmp_path / "merged"), "--json")
    assert merged.returncode == 0, merged.stderr
    assert json.loads(merged.stdout)["certificate"]["passed"]


def test_the_window_is_refused_with_what_it_needs(headless: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "display" in headless("-m", "lora_studio").stderr
    done = headless("-m", "lora_studio", QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 2
    assert "PySide6" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_platformdirs_the_folders_are_those_it_gives_on_linux(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from lora_studio.core.paths import HOME_VARIABLE, studio_paths

    monkeypatch.delenv(HOME_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    usual = studio_paths()
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    if sys.platform.startswith("linux"):
        assert studio_paths() == usual
    assert studio_paths().cache == tmp_path / "elsewhere" / "lora-studio"
