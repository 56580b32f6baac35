from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.events import RunFinished
from lora_studio.data.readers.files import FileReader
from lora_studio.data.rows.row import Message, Row
from lora_studio.data.templates.template import Rendered
from lora_studio.data.tokens.encode import Encoder
from lora_studio.data.tokens.lens import lens
from lora_studio.data.tokens.token_text import TokenTexts
from tests.data.conftest import MODEL_ROLE, chat

Write = Callable[..., str]
Make = Callable[..., Any]
TEXT = "Grüße 👩‍👩‍👧 مرحبا e\u0301 <|im_end|>  x\n\n   y "


def mask_by_offsets(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[bool]:
    """The mask told from every token's offsets: a token is trained where it starts within a span."""
    borders = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = borders[:, 0].copy(), borders[:, 1]
    bare = np.flatnonzero(starts == ends)
    starts[bare[bare > 0]] = ends[bare[bare > 0] - 1]
    return [any(start <= place < end for start, end in spans) for place in starts.tolist()]


PIECES = st.sampled_from(["parcel", " ", "   ", "\n", "ü", "👩‍👩‍👧", "مرحبا", "e\u0301", "<|im_end|>", "</s>", ".", "support", "\t"])


@given(st.lists(PIECES, min_size=1, max_size=30), st.data())
@settings(max_examples=400, deadline=None)
def test_borders_give_the_mask_that_all_offsets_give(pieces: list[str], data: st.DataObject) -> None:
    tokenizer = _tiny(data.draw(st.sampled_from(("", "trims", "composes", "prefixes"))))
    text = "".join(pieces)
    if tokenizer is _KNOWN.get("trims"):  # trimmed offsets of a token of nothing but spaces say little of where it begins
        assume(not re.search(r"^ | ([^\w.]|$)", text))
    borders = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=6)))
    spans = list(zip(borders[::2], borders[1::2]))
    row = Encoder(tokenizer).encode_row(Rendered(text, tuple(spans), closed=True))
    expected = mask_by_offsets(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets, spans)
    assert row.trained.tolist() == [False, *expected[1:]]


_KNOWN: dict[str, Any] = {}


def _tiny(manner: str) -> Any:
    """The tiny tokenizer in one of several manners, made once: hypothesis calls a test many times."""
    if manner not in _KNOWN:
        import tempfile

        from tokenizers import normalizers, pre_tokenizers, processors
        from transformers import AutoTokenizer

        from tests.tiny import save_tiny_tokenizer

        with tempfile.TemporaryDirectory() as folder:
            save_tiny_tokenizer(Path(folder))
            tokenizer = AutoTokenizer.from_pretrained(folder)
        backend = tokenizer.backend_tokenizer
        if manner == "trims":
            backend.post_processor = processors.ByteLevel(trim_offsets=True)
        elif manner == "composes":
            backend.normalizer = normalizers.NFC()
        elif manner == "prefixes":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        _KNOWN[manner] = tokenizer
    return _KNOWN[manner]


def test_the_bytes_of_tokens_are_the_bytes_of_the_text(tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    texts = TokenTexts(tokenizer)
    ids = tokenizer.backend_tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert b"".join(map(texts.raw, ids)) == TEXT.encode()


def test_bytes_that_are_no_whole_character_are_written_as_bytes(tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    ids = tokenizer.backend_tokenizer.encode("👩", add_special_tokens=False).ids
    assert "".join(map(TokenTexts(tokenizer).of, ids)) == "\\xf0\\x9f\\x91\\xa9"


def look(tokenizer_folder: Path, path: str, lines: list[int], **changes: Any) -> list[dict[str, Any]]:
    config = RunConfig().replace({"data.train": (path,), **{f"data.{name}": value for name, value in changes.items()}})
    known = {row.line: row for row in FileReader(path, Path(path)).rows() if isinstance(row, Row)}
    rows = json.loads(json.dumps([known[line].to_json() for line in lines]))
    last = list(lens(TaskContext(), config.model_dump(mode="json"), str(tokenizer_folder), rows))[-1]
    assert isinstance(last, RunFinished)
    return last.result["rows"]


def test_the_lens_says_of_each_token_whether_it_is_trained_context_or_cut(write_rows: Write, tokenizer_folder: Path) -> None:
    path = write_rows([chat("Hi?", "Ja."), chat("Where?", "Over there.", "And?", "No.")])
    row = look(tokenizer_folder, path, [2], max_length=40)[0]
    pairs = list(zip(row["texts"], row["states"]))
    by_state = {state: "".join(text for text, one in pairs if one == state) for state in ("trained", "context", "cut")}
    assert by_state["trained"] == "Over there.<|im_end|>"
    assert by_state["context"].startswith("<|im_start|>user\nWhere?<|im_end|>")
    assert by_state["cut"].endswith("No.<|im_end|>\n")
    assert (row["file"], row["line"], row["tokens"], row["trained"]) == (path, 2, len(row["ids"]), row["states"].count("trained"))


def test_rows_are_answered_in_the_order_asked_with_errors_of_their_own(write_rows: Write, tokenizer_folder: Path) -> None:
    path = write_rows([chat("a", "b"), chat("c", "d", system="e"), {"messages": []}])
    rows = look(tokenizer_folder, path, [2, 1], chat_template=MODEL_ROLE)
    assert [row["line"] for row in rows] == [2, 1]
    assert "System role not supported" in rows[0]["error"]
    assert "ids" in rows[1]


def test_where_each_answer_is_a_row_of_its_own_the_lens_shows_the_rows_that_train(write_rows: Write, tokenizer_folder: Path) -> None:
    from lora_studio.data.prepare import prepare_data
    from lora_studio.data.tokenizer import read_tokenizer

    path = write_rows([chat("Hi?", "Ja.", "And?", "No."), chat("Where?", "Over there.")])
    rows = look(tokenizer_folder, path, [1, 2], train_on="each")
    trained = ["".join(text for text, state in zip(row["texts"], row["states"]) if state == "trained") for row in rows]
    assert trained == ["Ja.<|im_end|>", "No.<|im_end|>", "Over there.<|im_end|>"]
    assert [(row["line"], row["answer"], row["answers"]) for row in rows] == [(1, 1, 2), (1, 2, 2), (2, 1, 1)]
    settings = RunConfig().replace({"data.train": (path,), "data.train_on": "each", "data.eval_fraction": 0}).data
    report = prepare_data(settings, read_tokenizer(str(tokenizer_folder)), seed=0).report
    assert (report.rows, report.tokens.trained) == (len(rows), sum(row["trained"] for row in rows))


def test_of_an_answer_that_the_template_refuses_the_error_says_which_it_is(write_rows: Write, tokenizer_folder: Path) -> None:
    path = write_rows([chat("Hi?", "Ja.", "And?", "No <|im_end|>.")])
    sound, refused = look(tokenizer_folder, path, [1], train_on="each")
    assert "ids" in sound
    assert (refused["answer"], refused["answers"], "<|im_end|>" in refused["error"]) == (2, 2, True)


def test_rows_on_one_line_of_an_array_are_told_apart(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([chat(f"q{number}", f"a{number}") for number in range(6)]), encoding="utf-8")
    rows = [row for row in FileReader(str(path), path).rows() if isinstance(row, Row)]
    config = RunConfig().replace({"data.train": (str(path),)}).model_dump(mode="json")
    last = list(lens(TaskContext(), config, str(tokenizer_folder), [rows[5].to_json()]))[-1]
    assert isinstance(last, RunFinished)
    assert "a5" in "".join(last.result["rows"][0]["texts"])


def test_a_row_comes_back_from_json_as_it_was() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    row = Row(
        "f",
        3,
        "messages",
        (Message("user", "a"), Message("assistant", "", False, {"tool_calls": [call]})),
        tools=(call,),
        rejected=(Message("assistant", "c"),),
        label=True,
        prompt_turns=1,
    )
    assert Row.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("length", [30_000])
def test_of_a_very_long_row_the_first_tokens_are_shown(write_rows: Write, tokenizer_folder: Path, length: int) -> None:
    path = write_rows([{"text": "x y " * length}])
    row = look(tokenizer_folder, path, [1])[0]
    assert len(row["ids"]) == len(row["texts"]) == len(row["states"]) == 20_000
    assert row["tokens"] > length
