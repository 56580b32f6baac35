"""Every kind of bad data through the command line: exit status 2, the file and line, and the way out."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command, WriteConfig
from tests.cli.test_bad_input import no_run_is_left, refused

USER = {"role": "user", "content": "Hello?"}
ANSWER = {"role": "assistant", "content": "Hi."}
GOOD = json.dumps({"messages": [USER, ANSWER]})


def turns(*messages: object) -> str:
    return json.dumps({"messages": messages})


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


BAD_LINES = {
    "cut JSON": ('{"messages": [{"role": "us', "the JSON is cut off"),
    "duplicate key": ('{"messages": [], "messages": []}', "the key 'messages' stands twice"),
    "NUL": ('{"messages": "\0"}', "a NUL character"),
    "escaped NUL": (turns(USER, {"role": "assistant", "content": "\0"}), "a NUL character"),
    "NaN": ('{"messages": NaN}', "NaN is not JSON"),
    "Infinity": ('{"messages": [], "score": Infinity}', "Infinity is not JSON"),
    "trailing garbage": (GOOD + " and more", "something follows the JSON value"),
    "no JSON": ("Hello?", "not JSON"),
    "no object": ("[1]", "a row is an object with keys"),
    "other keys": ('{"other": 1}', "the row has no 'messages'; its keys are 'other'"),
    "null": ('{"messages": null}', "messages is null"),
    "wrong type": ('{"messages": 3}', "messages is a number, not a list"),
    "empty conversation": ('{"messages": []}', "the conversation is empty"),
    "null answer": (turns(USER, {"role": "assistant", "content": None}), "messages[1] has no content"),
    "empty answer": (turns(USER, {"role": "assistant", "content": " "}), "the assistant's content is empty"),
    "no answer": (turns(USER), "no assistant turn"),
    "roles out of order": (turns(USER, {"role": "tool", "content": "x"}, ANSWER), "roles are out of order"),
    "unknown role": (turns(USER, {"role": "narrator", "content": "x"}), "the role 'narrator'"),
    "question last": (turns(USER, ANSWER, USER), "ends with the user's turn"),
    "half surrogate": (turns(USER, {"role": "assistant", "content": "\ud83d"}), "half a surrogate pair"),
    "picture": (turns({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "a part that is not text"),
    "broken tool call": (turns(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}), "is not JSON"),
    "nested too deeply": ("[" * 600, "nested too deeply"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_one_bad_line_of_any_kind_stops_the_training(command: Command, write_config: WriteConfig, tmp_path: Path, kind: str) -> None:
    line, reason = BAD_LINES[kind]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{GOOD}\n{line}\n{GOOD}\n", encoding="utf-8")
    refused(command("train", write_config(data__train=[str(rows)])), f"{rows}:2: ", reason)
    assert no_run_is_left()


WHOLE_FILES: dict[str, tuple[str, bytes, str, str]] = {
    "a latin-1 line": ("rows.jsonl", f"{GOOD}\n".encode() + b'{"text": "\xe9"}', ":2: not UTF-8: byte 0xe9", "data.encoding to latin-1"),
    "UTF-16": ("rows.jsonl", GOOD.encode("utf-16"), " is UTF-16, not UTF-8", "data.encoding to utf-16"),
    "UTF-16 without its mark": ("rows.csv", "prompt,completion\na,b\n".encode("utf-16-be"), " is UTF-16-BE, not UTF-8", "utf-16-be"),
    "an empty file": ("rows.jsonl", b"", " is empty", "Give a file with rows"),
    "too many cells": ("rows.csv", b"prompt,completion\na,b\nc,d,e\n", ":3: 3 cells", "Mend them"),
    "an open quote": ("rows.csv", b'prompt,completion\na,b\n"c,d\n', ":3: a quote is opened", "Mend them"),
    "a header in latin-1": ("rows.csv", b"caf\xe9,b\n1,2\n", ":1: not UTF-8", "data.encoding"),
    "a cut array": ("rows.json", b'[\n{"text": "a"},\n{"text": "b', ":3: ", "Mend them"),
    "JSON of another shape": ("rows.json", b'{\n"rows": 3\n}', ":3: neither a JSON array", "as JSONL"),
    "a bad row of Parquet": ("rows.parquet", parquet([{"text": "a"}, {"text": None}]), ":2: text is null", "Mend them"),
    "a cut Parquet file": ("rows.parquet", parquet([{"text": "a"}])[:-20], " is cut off or damaged", "again"),
    "a cut gzip file": ("rows.jsonl.gz", gzip.compress(GOOD.encode())[:-20], " is cut off or damaged", "again"),
    "a cut zstd file": ("rows.jsonl.zst", pa.compress(GOOD.encode(), codec="zstd", asbytes=True)[:-20], " is cut off or damaged", "again"),
    "gzip by another name": ("rows.jsonl", gzip.compress(GOOD.encode()), " is gzip data", "Name it rows.jsonl.gz"),
    "an unknown ending": ("rows.doc", b"text", " has an ending that is not known", ".jsonl"),
    "preference rows": ("rows.jsonl", b'{"prompt": "a", "chosen": "b", "rejected": "c"}', " holds preference rows", "completion: chosen"),
    "labelled rows": ("rows.jsonl", b'{"prompt": "a", "completion": "b", "label": false}', " holds labelled answers", "true label"),
    "only bad rows": ("rows.jsonl", b'{"other": 1}\n', ":1: no known keys: 'other'", "Mend them"),
}


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_file_that_cannot_be_used_is_told_with_the_way_out(
    command: Command, write_config: WriteConfig, tmp_path: Path, kind: str
) -> None:
    name, content, told, way_out = WHOLE_FILES[kind]
    rows = tmp_path / name
    rows.write_bytes(content)
    refused(command("train", write_config(data__train=[str(rows)])), f"{rows}{told}", way_out)
    assert no_run_is_left()


@pytest.mark.parametrize("kind", ["UTF-16", "an empty file", "a cut gzip file", "preference rows", "only bad rows"])
def test_data_with_nothing_to_train_on_is_status_2(command: Command, write_config: WriteConfig, tmp_path: Path, kind: str) -> None:
    name, content, told, _ = WHOLE_FILES[kind]
    rows = tmp_path / name
    rows.write_bytes(content)
    refused(command("data", write_config(data__train=[str(rows)], data__on_bad_rows="skip")), f"{rows}{told}")


def test_data_reports_every_bad_row_with_status_0(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{GOOD}\n{line}\n" for line, _ in BAD_LINES.values()), encoding="utf-8")
    outcome = command("data", write_config(data__train=[str(rows)]), "--json")
    assert outcome.status == 0, outcome.err
    assert [row["line"] for row in outcome.document["bad_rows"]] == list(range(2, 2 * len(BAD_LINES) + 1, 2))
    assert (outcome.document["bad_count"], outcome.document["duplicate_rows"]) == (len(BAD_LINES), len(BAD_LINES) - 1)
    assert outcome.document["files"][0]["reason"] == "line 1 has the key 'messages'"


def test_data_says_in_words_what_repeats_and_which_encoding_fits(command: Command, write_config: WriteConfig, tmp_path: Path) -> None:
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    train.write_bytes(f"{GOOD}\n{GOOD}\n".encode() + b'{"messages": "\xe9"}\n')
    held.write_text(GOOD)
    outcome = command("data", write_config(data__train=[str(train)], data__eval=[str(held)]))
    assert outcome.status == 0, outcome.err
    for told in (
        "1 training rows repeat one before them",
        "2 training rows stand in the evaluation data, too",
        f"{train}:3: not UTF-8",
        "set data.encoding to latin-1",
        "messages (line 1 has the key 'messages')",
    ):
        assert told in outcome.out


def test_a_hub_data_set_out_of_reach_is_told(command: Command, write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(command("train", write_config(data__train=["hf://somebody/rows"])), "hf://somebody/rows is not on this machine in full")


def test_columns_nobody_knows_are_told(command: Command, write_config: WriteConfig) -> None:
    refused(command("train", write_config(data__columns={"question": "q"})), "'question', which no format has", "completion")


@pytest.mark.parametrize(("on_bad_rows", "level", "status"), [("stop", "error", 2), ("skip", "warning", 0)])
@pytest.mark.parametrize("kind", ["thoughts that the template does not write", "not JSON"])
def test_plan_names_the_bad_rows_that_stop_a_training(
    command: Command,
    write_config: WriteConfig,
    tmp_path: Path,
    kind: str,
    on_bad_rows: str,
    level: str,
    status: int,
) -> None:
    lost = turns(USER, {**ANSWER, "reasoning_content": "They greet me."})
    rows = tmp_path / "rows.jsonl"
    rows.write_text(f"{GOOD}\n{lost if kind.startswith('thoughts') else 'Hello?'}\n{GOOD}\n", encoding="utf-8")
    outcome = command("plan", write_config(data__train=[str(rows)], data__on_bad_rows=on_bad_rows), "--json")
    found = [finding for finding in outcome.document["findings"] if finding["code"] == "bad_rows"]
    assert [finding["level"] for finding in found] == [level]
    assert found[0]["message"].startswith("1 bad row")
    assert f"{rows}:2: " in found[0]["message"]
    assert found[0]["hint"].startswith("Set data.on_unwritten" if kind.startswith("thoughts") else "Mend them")
    assert outcome.status == status
