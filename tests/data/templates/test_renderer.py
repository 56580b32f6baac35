"""Every wait for the child that renders has a limit, and says which step was not answered; nothing of it is left behind."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lora_studio.core.errors import StudioError
from lora_studio.data.rows.row import Message, Row, RowError
from lora_studio.data.templates import renderer as renderer_module
from lora_studio.data.templates import template as template_module
from lora_studio.data.templates.renderer import Limits, Renderer, RendererDiedError
from lora_studio.data.templates.template import ChatTemplate
from tests.data.templates.template_styles import CHATML

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
ROWS = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": None, "wanted": [1], "prompt": False}
]
BRIEF = Limits(start=0.5, late=0.2)
SLEEP = "import time; time.sleep(60)\n"
NO_CLOCK = "import faulthandler; faulthandler.dump_traceback_later = lambda *_given, **_named: None\n"
HANGS = {  # a module that the child comes upon, and what it does there
    "start": ("sitecustomize", SLEEP),
    "import": ("jinja2", SLEEP),
    "compile": ("sitecustomize", NO_CLOCK + "import time, jinja2; jinja2.Environment.parse = lambda *_given: time.sleep(60)\n"),
    "render": ("sitecustomize", NO_CLOCK + "import time, jinja2; jinja2.Template.render = lambda *_given, **_named: time.sleep(60)\n"),
}


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    yield
    assert set(threading.enumerate()) <= threads
    assert set(psutil.Process().children()) <= children


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module where the child, and it alone, comes upon it first."""

    def plant(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return plant


@pytest.fixture
def renderer_with() -> Iterator[Callable[[Limits], Renderer]]:
    made: list[Renderer] = []

    def make(limits: Limits) -> Renderer:
        made.append(Renderer(CHATML.template, {}, ["<|im_end|>"], limits=limits, variables={}, on_unwritten="refuse", train_opening=True))
        return made[-1]

    yield make
    for renderer in made:
        renderer.close()


def process_of(renderer: Any) -> psutil.Process:
    return psutil.Process(renderer._child.pid)


def rendered(renderer: Renderer) -> list[list[Any]]:
    renderer.send(ROWS, 0.2)
    return renderer.receive()


def started_and_rendered(renderer: Renderer) -> list[list[Any]]:
    assert renderer.start(0.2) == ""
    return rendered(renderer)


@pytest.mark.parametrize("step", HANGS)
def test_a_child_that_hangs_is_given_up_and_the_step_named(
    planted: Callable[[str, str], None],
    renderer_with: Callable[[Limits], Renderer],
    step: str,
) -> None:
    planted(*HANGS[step])
    slow_to_start = step in ("compile", "render")  # these come behind a start that is to succeed
    renderer = renderer_with(Limits(start=120.0, late=0.2) if slow_to_start else BRIEF)
    with pytest.raises(RendererDiedError, match="did not answer for") as raised:
        started_and_rendered(renderer)
    assert raised.value.step == step
    assert not renderer.running


@pytest.mark.parametrize(
    ("name", "text", "step", "told"),
    [
        ("sitecustomize", "import os; os.kill(os.getpid(), 9)\n", "start", "was killed by SIGKILL while starting"),
        (
            "jinja2",
            "raise ImportError('jinja2 is in pieces')\n",
            "import",
            r"ended by itself with status 1 \(ImportError: jinja2 is in pieces\) while importing",
        ),
    ],
)
@posix
def test_a_child_that_does_not_get_as_far_as_a_template_says_why(
    planted: Callable[[str, str], None],
    renderer_with: Callable[[Limits], Renderer],
    name: str,
    text: str,
    step: str,
    told: str,
) -> None:
    planted(name, text)
    with pytest.raises(RendererDiedError, match=told) as raised:
        renderer_with(Limits()).start(20.0)
    assert (raised.value.step, raised.value.overran) == (step, False)


@posix
@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("SIGKILL", "was killed by SIGKILL while rendering"),
        ("SIGSEGV", r"was killed by SIGSEGV.* while rendering"),
        ("SIGSTOP", "did not answer for .* s while rendering"),
    ],
)
def test_a_child_that_gets_a_signal_is_told_by_it(renderer_with: Callable[[Limits], Renderer], number: str, told: str) -> None:
    renderer = renderer_with(Limits(late=0.2))
    assert renderer.start(20.0) == ""
    process_of(renderer).send_signal(getattr(signal, number))
    with pytest.raises(RendererDiedError, match=told):
        rendered(renderer)


@posix
def test_a_stopped_child_does_not_hold_up_who_hands_it_more_than_a_pipe_takes(renderer_with: Callable[[Limits], Renderer]) -> None:
    renderer = renderer_with(Limits(late=0.2))
    assert renderer.start(20.0) == ""
    process_of(renderer).send_signal(signal.SIGSTOP)
    long = [{**ROWS[0], "messages": [{"role": "user", "content": "a" * 1_000_000}]}]
    with pytest.raises(RendererDiedError, match="did not answer"):
        renderer.send(long, 0.2)


def chat_row(line: int) -> Row:
    return Row("rows.jsonl", line, "messages", (Message("user", "a"), Message("assistant", "b")))


def test_on_a_busy_machine_a_childs_own_clock_is_set_later(
    planted: Callable[[str, str], None],
    renderer_with: Callable[[Limits], Renderer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    place = str(tmp_path / "seconds")
    writes = f"lambda seconds, **_named: print(seconds, file=open({place!r}, 'a'))"
    planted("sitecustomize", f"import faulthandler; faulthandler.dump_traceback_later = {writes}\n")
    monkeypatch.setattr(renderer_module, "waiting", lambda: 4.0)
    renderer = renderer_with(Limits())
    assert renderer.start(20.0) == ""
    renderer.send(ROWS, 5.0)
    assert renderer.receive()
    assert Path(place).read_text().split() == ["80.0", "20.0"]


@posix
def test_rows_of_a_stopped_child_are_rendered_by_a_new_one(
    tokenizer_with: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ChatTemplate(tokenizer_with(CHATML.template), limits=Limits(late=0.2)) as template:
        first = template.render_rows([chat_row(1), chat_row(2)], "all")
        process_of(template._renderer).send_signal(signal.SIGSTOP)
        monkeypatch.setattr(template_module, "BLOCK_SECONDS", 0.2)
        template.send([chat_row(1), chat_row(2)], "all")
        monkeypatch.undo()
        assert template.receive() == first
        assert not any(isinstance(row, RowError) for row in first)


@posix
def test_the_row_whose_child_is_killed_every_time_is_named_and_no_template_blamed(
    tokenizer_with: Callable[..., Any],
    planted: Callable[[str, str], None],
) -> None:
    planted("sitecustomize", "import os, jinja2; jinja2.Template.render = lambda *_given, **_named: os.kill(os.getpid(), 9)\n")
    told = r"rows.jsonl:7: the process that renders the chat template was killed by SIGKILL while rendering\."
    with ChatTemplate(tokenizer_with(CHATML.template)) as template, pytest.raises(StudioError, match=told) as raised:
        template.render_rows([chat_row(7), chat_row(8)], "all")
    assert "memory" in raised.value.hint
    assert raised.value.exit_status == 1
