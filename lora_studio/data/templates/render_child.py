"""The child that renders chat templates (`python -m lora_studio.data.templates.render_main`): marshal frames in, JSON lines out.

A template that came with a model is a stranger's program. The sandbox keeps it from the machine; a clock that needs no
interpreter ends the child when a template does not end, and a limit on memory stops one that grows. The child trusts its parent,
who speaks to it in marshal: several times as quick as JSON. The parent does not trust the child. A line `{"step": …}` says what the
child does next.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import marshal
import signal
import sys
from typing import Any

from jinja2 import TemplateSyntaxError

from lora_studio.data.templates.jinja_env import CompiledTemplate
from lora_studio.data.templates.row_rendering import RowRenderer, UnwrittenError
from lora_studio.data.templates.shapes import FAILURES
from lora_studio.data.templates.spans import AnswerFinder
from lora_studio.data.templates.template_errors import in_words
from lora_studio.data.templates.turn_ends import RewrittenError

SIZE_BYTES = 8  # of a frame, before it, little end first


def serve() -> None:
    """Compile the template of the first frame, then render one block of rows for each further frame, until input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent, which closes our input
    _say({"step": "compile"})
    settings = _heard()
    renderer = _set_up(settings) if settings else None
    gc.disable()  # a block is done with as a whole, so it is looked through once
    gc.freeze()
    while renderer is not None and (block := _heard()):
        faulthandler.dump_traceback_later(block["seconds"], exit=True)
        replies = [_reply(renderer, row) for row in block["rows"]]
        faulthandler.cancel_dump_traceback_later()
        _say(replies)
        del block, replies
        gc.collect()


def _heard() -> dict[str, Any] | None:
    """Read one frame: its size, then a dictionary; None once the parent has closed."""
    size = int.from_bytes(sys.stdin.buffer.read(SIZE_BYTES), "little")
    frame = sys.stdin.buffer.read(size)
    return marshal.loads(frame) if size and len(frame) == size else None


def _set_up(settings: dict[str, Any]) -> RowRenderer | None:
    _limit_memory(settings["memory"])
    faulthandler.dump_traceback_later(settings["seconds"], exit=True)
    try:
        template = CompiledTemplate(settings["template"], settings["special_tokens"], settings["variables"])
        finder = AnswerFinder(template, settings["end_tokens"], train_opening=settings["train_opening"])
    except TemplateSyntaxError as error:
        _say({"fault": f"line {error.lineno}: {error.message}"})
        return None
    except (*FAILURES, MemoryError) as error:
        _say({"fault": _said(error)})
        return None
    finally:
        faulthandler.cancel_dump_traceback_later()
    _say({"fault": "", "variables": sorted(template.variables)})
    return RowRenderer(finder, settings["on_unwritten"])


def _reply(renderer: RowRenderer, row: dict[str, Any]) -> list[Any]:
    """Return [text, spans, notes], or [None, kind of fault, what it says]."""
    try:
        if row["prompt"]:
            return [renderer.prompt(row["messages"], row["tools"], row["wanted"]), [], {}]
        return renderer.render(row["messages"], row["tools"], row["wanted"])
    except RewrittenError as error:
        return [None, "rewritten", _said(error)]
    except UnwrittenError as error:
        return [None, "unwritten", _said(error), error.kinds, error.cure]
    except MemoryError:
        return [None, "memory", ""]
    except FAILURES as error:
        return [None, "refused", in_words(error)]


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _say(reply: object) -> None:
    sys.stdout.buffer.write(json.dumps(reply, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    sys.stdout.buffer.flush()


def _limit_memory(most: int) -> None:
    """Bound the address space to so many bytes, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
