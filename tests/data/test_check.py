from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.bad_rows import write_bad_rows
from lora_studio.data.check import DataCheck, check_files, refuse_bad_rows
from tests.data.conftest import chat

GOOD = chat("Hello?", "Hi.")
Write = Callable[..., str]


def check(path: str, **changes: Any) -> Any:
    return check_files(DataSettings(train=(path,), **changes))


@pytest.mark.parametrize(
    ("name", "content", "row_format", "rows"),
    [
        ("a.jsonl", json.dumps(GOOD) + "\n\n" + json.dumps(GOOD), "messages", 2),
        ("a.json", json.dumps([GOOD, GOOD], indent=1), "messages", 2),
        ("lines.json", json.dumps(GOOD) + "\n" + json.dumps(GOOD), "messages", 2),
        ("a.jsonl", '{"prompt": "a", "completion": "b"}', "prompt_completion", 1),
        ("a.jsonl", '{"instruction": "a", "input": null, "output": "b"}', "alpaca", 1),
        ("a.jsonl", '{"text": "a"}', "text", 1),
        ("a.csv", 'prompt,completion\n"a, or\nb",c\nd,e\n', "prompt_completion", 2),
        ("semicolon.csv", "prompt;completion\na,b;c\n", "prompt_completion", 1),
        ("a.tsv", "instruction\tinput\toutput\na\t\tc\n", "alpaca", 1),
        ("a.txt", "one\nstill one\n\n\ntwo\n", "text", 2),
        ("bom.jsonl", "\ufeff" + json.dumps(GOOD), "messages", 1),
        ("bom.csv", "\ufefftext\nhello\n", "text", 1),
    ],
)
def test_a_files_format_is_told_by_its_keys(write_rows: Write, name: str, content: str, row_format: str, rows: int) -> None:
    found = check(write_rows(content, name))
    assert (found.format, found.rows, found.bad_rows) == (row_format, rows, ())


def test_the_reason_names_the_line_and_the_key_that_told(write_rows: Write) -> None:
    file = check(write_rows([GOOD])).files[0]
    assert file.reason == "line 1 has the key 'messages'"
    assert (file.split, file.rows, file.bad_rows) == ("train", 1, 0)


def turns(*pairs: tuple[str, object]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"messages": [{"role": "user", "cont', "the JSON is cut off"),
        ("{'messages': []}", "not JSON"),
        ("[1, 2]", "an object with keys"),
        ('{"messages": []}', "the conversation is empty"),
        ('{"messages": null}', "messages is null"),
        ('{"messages": 7}', "messages is a number, not a list"),
        ('{"messages": ["hi"]}', "messages[0] is text, not an object"),
        (turns(("user", "a")), "no assistant turn"),
        (turns(("user", "a"), ("assistant", None)), "messages[1] has no content"),
        (turns(("user", "a"), ("assistant", "  ")), "messages[1]: the assistant's content is empty"),
        (turns(("user", 3), ("assistant", "b")), "messages[0].content is a number, not text"),
        (turns(("user", "a"), ("assistant", "b"), ("system", "c")), "roles are out of order: messages[2]"),
        (turns(("user", "a"), ("assistant", "b"), ("user", "c")), "ends with the user's turn"),
        (turns(("user", "a"), ("tool", "b"), ("assistant", "c")), "roles are out of order: messages[1] is the tool's"),
        (turns(("user", "a"), ("narrator", "b")), "the role 'narrator'"),
        ('{"messages": [{"content": "a"}]}', "messages[0] has no role"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "a part that is not text"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half a surrogate pair"),
        ('{"text": "a"}', "the row has no 'messages'; its keys are 'text'"),
    ],
)
def test_a_bad_chat_row_is_named_by_line_and_reason(write_rows: Write, row: str, reason: str) -> None:
    path = write_rows(json.dumps(GOOD) + "\n" + row + "\n" + json.dumps(GOOD) + "\n")
    found = check(path)
    assert found.rows == 2
    (bad,) = found.bad_rows
    assert (bad.file, bad.line) == (path, 2)
    assert reason in bad.reason


@pytest.mark.parametrize(
    ("first", "row", "reason"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a"}, "the row has no 'completion'"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}, "completion is null"),
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ["b"]}, "completion[0] is text, not an object"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": ""}, "output is empty"),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "input": 4}, "input is a number"),
        ({"text": "a"}, {"text": ""}, "text is empty"),
        ({"text": "a"}, {"label": 1}, "the row has no 'text'"),
    ],
)
def test_a_bad_row_of_another_format_is_named(write_rows: Write, first: object, row: object, reason: str) -> None:
    found = check(write_rows([first, row]))
    assert found.rows == 1
    assert reason in found.bad_rows[0].reason


def test_a_row_that_is_not_utf8_is_named_and_the_next_is_read(write_rows: Write) -> None:
    found = check(write_rows(b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n'))
    assert found.rows == 2
    assert found.bad_rows[0].line == 2
    assert "not UTF-8: byte 0xe9" in found.bad_rows[0].reason


def test_a_table_names_rows_with_missing_cells_and_bytes_by_their_line(write_rows: Write) -> None:
    found = check(write_rows(b'prompt,completion\n"a\nb",c\nonly one\nx,\xff\nd,\n', "rows.csv"))
    assert found.rows == 1
    assert [(bad.line, bad.reason.split(":")[0]) for bad in found.bad_rows] == [
        (4, "1 cell where the first line names 2 columns"),
        (5, "not UTF-8"),
        (6, "completion is null"),
    ]


def test_a_cut_array_keeps_its_whole_rows_and_names_the_line_of_the_cut(write_rows: Write) -> None:
    found = check(write_rows('[\n{"text": "a"},\n{"text": "b"},\n{"text": "c', "rows.json"))
    assert found.rows == 2
    assert found.bad_rows[0].line == 4


def test_a_format_that_is_set_holds_for_every_row(write_rows: Write) -> None:
    found = check(write_rows([{"text": "a", "prompt": "b", "completion": "c"}, {"text": "d"}]), format="prompt_completion")
    assert (found.rows, found.format) == (1, "prompt_completion")
    assert found.bad_rows[0].line == 2


def test_files_of_different_formats_are_mixed(write_rows: Write) -> None:
    both = (write_rows([GOOD], "a.jsonl"), write_rows([{"text": "b"}], "b.jsonl"))
    found = check_files(DataSettings(train=both))
    assert (found.format, [file.format for file in found.files]) == ("mixed", ["messages", "text"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", " \n \n", "is empty"),
        ("a.arrow", "ARROW1", "an ending that is not known"),
        ("a.json", '{\n "rows": []\n}', "neither a JSON array of rows, nor an object that holds one, nor one JSON object a line"),
    ],
)
def test_a_file_of_no_use_is_refused_by_name(write_rows: Write, name: str, content: str, message: str) -> None:
    path = write_rows(content, name)
    with pytest.raises(InputError) as raised:
        check(path)
    assert path in raised.value.message
    assert message in raised.value.message
    assert raised.value.field == "data.train"
    assert raised.value.hint


def test_a_missing_evaluation_file_is_told_at_its_own_field(write_rows: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as raised:
        check_files(DataSettings(train=(write_rows([GOOD]),), eval=(str(tmp_path / "none.jsonl"),)))
    assert raised.value.field == "data.eval"


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no data file"):
        check(str(tmp_path))


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(InputError, match="No data file"):
        check_files(DataSettings())


def test_a_file_cannot_be_trained_on_and_held_out_at_once(write_rows: Write) -> None:
    path = write_rows([GOOD])
    with pytest.raises(InputError, match="named twice"):
        check_files(DataSettings(train=(path,), eval=(path,)))


def test_repeats_are_counted_within_train_and_between_train_and_evaluation(write_rows: Write) -> None:
    train = write_rows([chat("a", "b"), chat("c", "d"), chat("a", "b"), {"messages": []}, chat("a", "b")], "train.jsonl")
    held = write_rows([{"prompt": "c", "completion": "d"}, {"prompt": "e", "completion": "f"}], "held.jsonl")
    found = check_files(DataSettings(train=(train,), eval=(held,)))
    assert (found.duplicate_rows, found.shared_rows) == (2, 1)
    assert {"duplicate_rows", "shared_rows", "bad_count", "encoding_offer"} <= found.to_json().keys()


def test_a_check_comes_back_from_json_as_it_was(write_rows: Write) -> None:
    found = check(write_rows(b'{"text": "a"}\n{"text": "\xe9"}\n{"text": "a"}\n'))
    assert (found.encoding_offer, found.duplicate_rows) == ("latin-1", 1)
    assert DataCheck.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_bad_rows_beyond_the_limit_are_counted_and_told(write_rows: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_studio.data.check.MOST_BAD_ROWS", 10)
    found = check(write_rows('{"text": "a"}\n' + "bad\n" * 25))
    assert ([bad.line for bad in found.bad_rows], found.bad_count, found.files[0].bad_rows) == (list(range(2, 12)), 25, 25)
    with pytest.raises(InputError, match=r"25 bad rows: .*; and 20 more"):
        refuse_bad_rows(found.bad_rows, found.bad_count)


def test_bad_rows_are_written_as_a_table(write_rows: Write, tmp_path: Path) -> None:
    path = write_rows('{"text": "a"}\n{"text": ""}\nbad, "quoted"\n')
    write_bad_rows(tmp_path / "bad.csv", check(path).bad_rows)
    with (tmp_path / "bad.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["file", "line", "reason"],
            [path, "2", "text is empty"],
            [path, "3", "not JSON: Expecting value at column 1"],
        ]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"):
        write_bad_rows(tmp_path / "file" / "bad.csv", [])


def test_checking_and_planning_load_no_heavy_library() -> None:
    names = "('torch', 'transformers', 'tokenizers', 'peft', 'datasets', 'pyarrow', 'huggingface_hub')"
    modules = "lora_studio.data.check, lora_studio.data.batching.plan, lora_studio.data.readers.row_index, lora_studio.data.trainable"
    code = f"import sys, {modules}; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
