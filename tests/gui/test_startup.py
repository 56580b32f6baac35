"""Opening the window: what it imports when, what it says without a display, and that a second launch finds the first."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from lora_studio.core.errors import InputError
from lora_studio.gui import app as application
from lora_studio.gui.platform.display import check_display
from lora_studio.gui.platform.single_instance import InstanceServer, hand_over, instance_name

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft")
STAGES = """
import json, sys
import lora_studio.gui.app as app

WATCHED = ("torch", "transformers", "peft", "pydantic", "pyqtgraph", "numpy", "PySide6.QtNetwork")
seen = {}

def told(opened, target):
    seen["paint"] = [name for name in WATCHED if name in sys.modules]
    fill(opened, target)
    seen["panels"] = [name for name in WATCHED if name in sys.modules]
    def ready():
        seen["plots"] = [name for name in WATCHED if name in sys.modules]
        seen["pages"] = opened.window.tabs.count()
        opened.window.close()
        opened.app.quit()
    opened.services.pages.made.connect(ready)

fill, app._fill = app._fill, told
status = app.run([])
print(json.dumps({**seen, "status": status}))
"""


def launch(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "LORA_STUDIO_HOME": str(home), "LORA_STUDIO_NO_ENGINE": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    done = launch(STAGES, tmp_path_factory.mktemp("home"))
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_first_paint_needs_neither_settings_nor_plots(stages: dict[str, object]) -> None:
    assert stages["paint"] == []


def test_the_plots_come_after_the_panels(stages: dict[str, object]) -> None:
    assert "pydantic" in stages["panels"]
    assert "pyqtgraph" not in stages["panels"]
    assert "pyqtgraph" in stages["plots"]


def test_a_window_with_its_plots_has_imported_no_engine(stages: dict[str, object]) -> None:
    assert [name for name in HEAVY if name in stages["plots"]] == []
    assert stages["pages"] == 3


def test_closing_the_window_ends_the_program_well(stages: dict[str, object]) -> None:
    assert stages["status"] == 0


def test_without_a_display_the_program_says_so_and_exits_2(tmp_path: Path) -> None:
    code = "import sys; from lora_studio.gui.app import run; sys.exit(run([]))"
    done = launch(code, tmp_path, QT_QPA_PLATFORM="", DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 2
    assert "no display" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are X's or Wayland's on Linux alone")
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DISPLAY": ":7654"}, ":7654 does not answer"),
        ({"DISPLAY": "nonsense"}, "nonsense does not answer"),
        ({"DISPLAY": "127.0.0.1:59999"}, "does not answer"),
        ({"WAYLAND_DISPLAY": "wayland-9", "XDG_RUNTIME_DIR": "/nonexistent"}, "no display"),
    ],
)
def test_a_display_that_does_not_answer_is_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_display(environment)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are X's or Wayland's on Linux alone")
def test_a_wayland_display_that_answers_will_do(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "wayland-0"))
        server.listen()
        check_display({"WAYLAND_DISPLAY": "wayland-0", "XDG_RUNTIME_DIR": str(tmp_path)})


def test_off_screen_needs_no_display() -> None:
    check_display({"QT_QPA_PLATFORM": "offscreen"})


@pytest.mark.parametrize(("argv", "said"), [(["nowhere.yaml"], "no nowhere.yaml"), (["a", "b"], "one thing"), (["./a/b"], "no ./a/b")])
def test_what_cannot_be_opened_exits_2(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.run(argv) == 2
    assert said in capsys.readouterr().err.replace("There is ", "").replace("Only ", "")


def test_a_hub_id_may_be_opened() -> None:
    assert application.target_of(["owner/model"]) == "owner/model"


def test_no_window_is_found_where_none_is_open() -> None:
    assert hand_over(None) is False


def test_a_second_launch_hands_over_what_it_was_given(qtbot: QtBot, qapp: QApplication, studio_home: Path) -> None:
    server = InstanceServer(qapp)
    assert server.listening
    code = (
        "from PySide6.QtWidgets import QApplication; from lora_studio.gui.platform.single_instance import hand_over; "
        "app = QApplication([]); print(hand_over('/some/run'))"
    )
    environment = {**os.environ, "LORA_STUDIO_HOME": str(studio_home), "PYTHONPATH": str(ROOT)}
    with qtbot.waitSignal(server.asked, timeout=30_000) as signal:
        second = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    said, _ = second.communicate(timeout=30)
    assert signal.args == ["/some/run"]
    assert said.strip() == "True"
    server.close()
    server.deleteLater()


def test_a_window_that_was_killed_does_not_keep_the_next_from_listening(qapp: QApplication, studio_home: Path) -> None:
    from PySide6.QtCore import QDir

    if sys.platform == "win32":
        pytest.skip("named pipes leave nothing behind")
    left = Path(QDir.tempPath()) / instance_name()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    server = InstanceServer(qapp)
    assert server.listening
    server.close()
    server.deleteLater()


def test_twenty_thousand_emits_leave_the_process_alive() -> None:
    """PySide6 6.12.0 on Python 3.11 dropped a reference to True with each emit, and aborted after some 550."""
    code = (
        "from PySide6.QtCore import QCoreApplication, QObject, Signal\n"
        "class Emitter(QObject):\n    told = Signal(bool)\n"
        "app = QCoreApplication([])\nheard = []\nemitter = Emitter()\nemitter.told.connect(heard.append)\n"
        "for number in range(20_000): emitter.told.emit(True)\nprint(len(heard))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "20000"), done.stderr[-500:]
