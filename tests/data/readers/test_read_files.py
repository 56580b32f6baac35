"""Kinds of files: what each gives, at which line, and what is told of one that is cut, damaged or in another encoding."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files, refuse_bad_rows
from lora_studio.data.readers.files import FileReader, file_readers
from lora_studio.data.readers.legacy_encodings import CODECS
from lora_studio.data.readers.read import raw_text
from lora_studio.data.rows.row import BadRow, Row
from tests.data.conftest import chat

Write = Callable[..., str]
HARD = [
    "plain",
    "emoji 👩‍👩‍👧 🇪🇺",
    "שלום עולם, مرحبا",
    "é as one and e\u0301 as two",
    "line\nend\ttab",
    '"quoted", with; marks',
    "日本語 한국어",
    "\\n",
]


def check(path: str, **changes: Any) -> Any:
    return check_files(DataSettings(train=(path,), **changes))


def rows_of(path: str, **changes: Any) -> list[Row | BadRow]:
    return [row for _, reader in file_readers(DataSettings(train=(path,), **changes)) for row in reader.rows()]


def texts_of(path: str, **changes: Any) -> list[str]:
    rows = rows_of(path, **changes)
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.text for row in rows if isinstance(row, Row)]


def as_csv(texts: list[str], delimiter: str = ",") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerows([["id", "text"], *([number, text] for number, text in enumerate(texts))])
    return out.getvalue()


def as_json_lines(texts: list[str], **options: Any) -> str:
    return "".join(json.dumps({"text": text}, **options) + "\n" for text in texts)


SHAPES: list[tuple[str, Callable[[list[str]], str]]] = [
    ("escaped.jsonl", as_json_lines),
    ("raw.jsonl", lambda texts: as_json_lines(texts, ensure_ascii=False)),
    ("windows.ndjson", lambda texts: as_json_lines(texts).replace("\n", "\r\n")),
    ("array.json", lambda texts: json.dumps([{"text": text} for text in texts])),
    ("pretty.json", lambda texts: json.dumps([{"text": text} for text in texts], indent=4, ensure_ascii=False)),
    ("wrapped.json", lambda texts: json.dumps({"version": "1", "meta": {"n": [1]}, "data": [{"text": text} for text in texts]}, indent=2)),
    ("minified.json", lambda texts: json.dumps({"data": [{"text": text} for text in texts], "count": len(texts)})),
    ("lines.json", as_json_lines),
    ("table.csv", as_csv),
    ("semicolons.csv", lambda texts: as_csv(texts, ";")),
    ("table.tsv", lambda texts: as_csv(texts, "\t")),
    ("bom.csv", lambda texts: "\ufeff" + as_csv(texts)),
]


@pytest.mark.parametrize(("name", "written"), SHAPES, ids=[name for name, _ in SHAPES])
def test_a_text_comes_out_of_every_kind_of_file_as_it_went_in(write_rows: Write, name: str, written: Callable[[list[str]], str]) -> None:
    assert texts_of(write_rows(written(HARD).encode(), name)) == HARD


@pytest.mark.parametrize("ending", [".gz", ".zst", ".zstd"])
@pytest.mark.parametrize(("name", "written"), SHAPES, ids=[name for name, _ in SHAPES])
def test_compressed_files_read_as_plain_ones(write_rows: Write, name: str, written: Callable[[list[str]], str], ending: str) -> None:
    content = written(HARD).encode()
    packed = gzip.compress(content) if ending == ".gz" else pa.compress(content, codec="zstd", asbytes=True)
    assert texts_of(write_rows(packed, name + ending)) == HARD


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(("name", "written"), SHAPES[:11], ids=[name for name, _ in SHAPES[:11]])
def test_utf_16_is_refused_with_its_name_and_reads_when_set(
    write_rows: Write, name: str, written: Callable[[list[str]], str], encoding: str
) -> None:
    path = write_rows(written(HARD).encode(encoding), name)
    with pytest.raises(InputError, match=rf"is {encoding.upper()}, not UTF-8") as raised:
        check(path)
    assert f"data.encoding to {encoding}" in raised.value.hint
    assert raised.value.field == "data.encoding"
    assert texts_of(path, encoding=encoding) == HARD


@pytest.mark.parametrize(("name", "written"), SHAPES[1:11], ids=[name for name, _ in SHAPES[1:11]])
def test_latin_1_is_offered_and_reads_when_set(write_rows: Write, name: str, written: Callable[[list[str]], str]) -> None:
    said = ["café au lait", "naïve", "plain", "“curly” – dash"]
    path = write_rows(written(said).replace("\\u2013", "–").encode("cp1252", "replace"), name)
    assert texts_of(path, encoding="latin-1") == said
    if name in ("windows.ndjson", "array.json", "wrapped.json", "minified.json", "lines.json"):
        return  # escaped: they are ASCII
    found = check(path)
    assert found.bad_count == 3
    assert found.encoding_offer == "latin-1"
    with pytest.raises(InputError, match="not UTF-8: byte 0xe9") as raised:
        refuse_bad_rows(found.bad_rows, found.bad_count, found.encoding_offer)
    assert "set data.encoding to latin-1" in raised.value.hint


OLDER = {
    "windows-1251": "Где мой заказ? Он до сих пор не пришёл, и никто не отвечает.",
    "koi8-r": "Где мой заказ? Он до сих пор не пришёл.",
    "shift_jis": "荷物がまだ届きません。電話にも誰も出ません。",
    "gb18030": "我的包裹还没有到，电话也没有人接。",
    "big5": "我的包裹還沒有到，電話也沒有人接。",
    "euc_kr": "소포가 아직 도착하지 않았고 아무도 전화를 받지 않습니다.",
    "windows-1253": "Το δέμα μου δεν έφτασε ποτέ και κανείς δεν απαντά.",
    "windows-1255": "החבילה שלי לא הגיעה ואף אחד לא עונה לטלפון.",
    "windows-1256": "لم يصل الطرد ولا أحد يرد على الهاتف.",
}


@pytest.mark.parametrize("name", ["raw.jsonl", "pretty.json", "table.tsv"])
@pytest.mark.parametrize("encoding", OLDER)
def test_older_encodings_are_offered_by_what_fits_and_read_when_set(write_rows: Write, name: str, encoding: str) -> None:
    said = [OLDER[encoding], f"{OLDER[encoding]} 2", "plain"]
    path = write_rows(dict(SHAPES)[name](said).encode(CODECS[encoding]), name)
    assert texts_of(path, encoding=encoding) == said
    found = check(path)
    assert (found.bad_count, found.encoding_offer) == (2, encoding)
    assert "latin-1" in found.other_encodings


@pytest.mark.parametrize("encoding", ["windows-1250", "windows-1254", "windows-1257"])
def test_encodings_of_the_same_letters_are_named_beside_latin_1(write_rows: Write, encoding: str) -> None:
    found = check(write_rows(as_json_lines(["Größe über", "café"], ensure_ascii=False).encode(CODECS[encoding])))
    assert found.encoding_offer == "latin-1"
    assert encoding in found.other_encodings


@pytest.mark.parametrize("encoding", [name for name in CODECS if name != "windows-1258"])
def test_utf_8_is_not_garbled_by_an_older_encoding(write_rows: Write, encoding: str) -> None:
    with pytest.raises(InputError, match=f"reads as UTF-8, which {encoding} would garble") as raised:
        check(write_rows('{"text": "plain"}\n' * 5000 + '{"text": "café déjà"}\n'), encoding=encoding)
    assert raised.value.field == "data.encoding"


def test_one_latin_1_element_among_those_of_utf_8_is_no_offer(write_rows: Write) -> None:
    found = check(write_rows('[{"text": "schön"}, '.encode() + b'{"text": "caf\xe9"}]', "rows.json"))
    assert (found.rows, found.bad_count, found.encoding_offer) == (1, 1, "")


def test_half_a_surrogate_pair_in_utf_16_is_no_reason_to_offer_latin_1(write_rows: Write) -> None:
    content = '{"text": "a"}\n{"text": "b\ud800"}\n'.encode("utf-16-le", "surrogatepass")
    found = check(write_rows(content), encoding="utf-16-le")
    assert (found.rows, found.bad_count, found.encoding_offer) == (1, 1, "")


@pytest.mark.parametrize("text", ["plain words", "一一一一，二三"])
@pytest.mark.parametrize(("name", "written"), SHAPES[1:11], ids=[name for name, _ in SHAPES[1:11]])
def test_utf_16_the_other_way_round_is_refused(write_rows: Write, name: str, written: Callable[[list[str]], str], text: str) -> None:
    for encoding, other in (("utf-16", "utf-16-be"), ("utf-16-le", "utf-16-be"), ("utf-16-be", "utf-16-le")):
        for mark in ("", "\ufeff")[: 1 if encoding == "utf-16" else 2]:
            path = write_rows((mark + written([text] * 3)).encode(other), name)
            with pytest.raises(InputError, match=rf"is {other.upper()}, not utf-16") as raised:
                check(path, encoding=encoding)
            assert (raised.value.field, f"data.encoding to {other}" in raised.value.hint) == ("data.encoding", True)
            assert texts_of(path, encoding=other) == [text] * 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt", "rows.jsonl.gz"])
def test_utf_8_far_into_a_file_that_is_set_to_be_latin_1_is_refused(write_rows: Write, name: str) -> None:
    texts = ["plain " * 20] * 20_000 + ["Zürich – “quoted”"]
    lines, array = as_json_lines(texts, ensure_ascii=False), json.dumps([{"text": text} for text in texts], indent=1, ensure_ascii=False)
    made = {"rows.json": array, "rows.csv": as_csv(texts), "rows.txt": "\n\n".join(texts)}.get(name, lines)
    pack = gzip.compress if name.endswith(".gz") else bytes
    with pytest.raises(InputError, match=f"{name} reads as UTF-8, which latin-1 would garble") as raised:
        check(write_rows(pack(made.encode()), name), encoding="latin-1")
    assert (raised.value.field, raised.value.hint[:22]) == ("data.encoding", "Take data.encoding out")
    assert texts_of(write_rows(pack(made.encode("cp1252")), name), encoding="latin-1") == texts


def test_a_latin_1_letter_at_the_very_end_of_a_file_is_one(write_rows: Write) -> None:
    assert texts_of(write_rows("café".encode("latin-1"), "rows.txt"), encoding="latin-1") == ["café"]


def test_one_latin_1_line_among_lines_of_utf_8_is_one_bad_row_and_no_offer(write_rows: Write) -> None:
    found = check(write_rows('{"text": "schön"}\n'.encode() + b'{"text": "caf\xe9"}\n' + '{"text": "más"}\n'.encode()))
    assert (found.rows, found.bad_count, found.encoding_offer) == (2, 1, "")
    assert "byte 0xe9 at 14 ('é' in latin-1)" in found.bad_rows[0].reason


@pytest.mark.parametrize(
    ("content", "encoding", "told"),
    [
        (b'{"text": "a plain line"}\n', "utf-16", "is not UTF-16: it reads as UTF-8"),
        ("\ufeff" + '{"text": "é"}\n', "latin-1", "is UTF-8, not latin-1"),
        ('{"text": "a"}\n'.encode("utf-32"), "utf-8", "is UTF-32"),
        ('{"text": "café"}\n', "latin-1", "reads as UTF-8, which latin-1 would garble"),
    ],
)
def test_an_encoding_that_is_set_and_cannot_be_is_refused(write_rows: Write, content: object, encoding: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        check(write_rows(content if isinstance(content, bytes) else str(content).encode()), encoding=encoding)


def parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def test_parquet_gives_nested_turns_and_counts_rows_from_one(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Sunny.", "name": None, "tool_calls": None}]
    rows = [{"messages": turns}] * 3 + [{"messages": []}] + [{"messages": turns}] * 3
    path = parquet(tmp_path / "rows.parquet", rows, row_group_size=2)
    found = check(path)
    assert (found.rows, found.format, found.files[0].reason) == (6, "messages", "row 1 has the key 'messages'")
    assert [str(bad) for bad in found.bad_rows] == [f"{path}:4: the conversation is empty"]
    assert found.duplicate_rows == 5


def test_members_that_arrow_adds_to_the_arguments_of_a_call_are_dropped(tmp_path: Path) -> None:
    arguments: list[dict[str, Any]] = [{"city": "Bern"}, {"query": "tea", "within": {"days": [1, None]}}, {"within": {"weeks": 1}}]
    turns = [
        [{"role": "user", "content": "Go"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": wanted}}]}]
        for wanted in arguments
    ]
    read = rows_of(parquet(tmp_path / "rows.parquet", [{"messages": messages} for messages in turns]))
    assert [row.messages[1].extra["tool_calls"][0]["function"]["arguments"] for row in read if isinstance(row, Row)] == arguments


def test_a_null_cell_of_parquet_is_told_as_null(tmp_path: Path) -> None:
    assert check(parquet(tmp_path / "rows.parquet", [{"text": "a"}, {"text": None}])).bad_rows[0].reason == "text is null"


def test_parquet_of_text_is_read_whatever_its_compression(tmp_path: Path) -> None:
    path = parquet(tmp_path / "rows.parquet", [{"text": text, "id": 1} for text in HARD], compression="zstd")
    assert texts_of(path) == HARD


@pytest.mark.parametrize("damage", ["cut", "flipped", "no parquet", "nothing"])
def test_a_damaged_parquet_file_is_one_message(tmp_path: Path, damage: str) -> None:
    path = Path(parquet(tmp_path / "rows.parquet", [{"text": f"row {n} " * 50} for n in range(2000)], row_group_size=500))
    whole = bytearray(path.read_bytes())
    if damage == "flipped":
        whole[100:2000] = b"\xff" * 1900
    path.write_bytes({"cut": whole[: len(whole) // 2], "flipped": whole, "no parquet": b"a,b\n1,2\n" * 40, "nothing": b""}[damage])
    with pytest.raises(InputError, match="is empty" if damage == "nothing" else "cut off or damaged") as raised:
        check(str(path))
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "not packed"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_damaged_compressed_file_is_one_message(write_rows: Write, name: str, ending: str, damage: str) -> None:
    import random

    words = random.Random(0)
    texts = ["".join(words.choices("abcdefghij ", k=300)) for _ in range(3000)]
    content = {
        ".jsonl": as_json_lines(texts),
        ".json": json.dumps([{"text": text} for text in texts]),
        ".csv": as_csv(texts),
        ".txt": "\n\n".join(texts),
    }[Path(name).suffix].encode()
    packed = bytearray(gzip.compress(content) if ending == ".gz" else pa.compress(content, codec="zstd", asbytes=True))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    elif damage == "flipped":
        packed[3:60] = b"\xff" * 57
    else:
        packed = bytearray(content)
    path = write_rows(bytes(packed), name + ending)
    with pytest.raises(InputError, match="is cut off or damaged") as raised:
        check(path)
    assert path in raised.value.message


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (gzip.compress(b'{"text": "a"}', mtime=0), "rows.jsonl", "Name it rows.jsonl.gz"),
        (b"PAR1....PAR1", "rows.jsonl", "Name it rows.parquet"),
        (b"PK\x03\x04....", "rows.csv", "Unpack it"),
    ],
)
def test_a_file_of_another_kind_than_its_name_says_is_named(write_rows: Write, content: bytes, name: str, told: str) -> None:
    with pytest.raises(InputError, match="which its name does not say") as raised:
        check(write_rows(content, name))
    assert told in raised.value.hint


def test_a_folder_is_read_in_order_below_and_without_what_is_no_data(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/2.jsonl", "a/1.jsonl.gz", "README.md", ".hidden.jsonl", ".git/x.jsonl", "notes.pdf", "dataset_info.json"):
        path = tmp_path / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"text": name}).encode() + b"\n"
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = check(str(tmp_path / "rows"))
    assert [file.path.removeprefix(f"{tmp_path}/rows/") for file in found.files] == ["a/1.jsonl.gz", "a/2.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("license_questions.jsonl", True),
        ("noticeboard.csv", True),
        ("readme_tasks.jsonl", True),
        ("state.jsonl", True),
        ("LICENSE.txt", False),
        ("README.zh.md", False),
        ("README_de.md", False),
        ("notice.md", False),
        ("dataset_infos.json", False),
        ("state.json", False),
    ],
)
def test_a_file_in_a_folder_is_passed_over_by_its_whole_name(tmp_path: Path, name: str, read: bool) -> None:
    for file in ("rows.jsonl", name):
        (tmp_path / file).write_text('{"text": "a"}\n')
    found = [reader.where.name for _, reader in file_readers(DataSettings(train=(str(tmp_path),)))]
    assert found == sorted(["rows.jsonl", *[name] * read])


def test_a_linked_folder_is_entered_once_and_loops_end(tmp_path: Path) -> None:
    for file in ("rows/a/1.jsonl", "elsewhere/2.jsonl"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text('{"text": "a"}\n')
    for link, target in (("rows/b", "elsewhere"), ("rows/c", "elsewhere"), ("rows/a/loop", "rows"), ("elsewhere/back", "rows/a")):
        (tmp_path / link).symlink_to(tmp_path / target)
    found = [reader.path for _, reader in file_readers(DataSettings(train=(str(tmp_path / "rows"),)))]
    assert [path.removeprefix(f"{tmp_path}/rows/") for path in found] == ["a/1.jsonl", "b/2.jsonl"]


def test_a_file_named_again_through_its_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')
    with pytest.raises(InputError, match="named twice"):
        check_files(DataSettings(train=(str(tmp_path),), eval=(str(file),)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "the JSON is cut off at column 13"),
        ('{"text": 1,', "at column 12"),
        ('{"text": "a", "text": "b"}', "the key 'text' stands twice in one object"),
        ('{"text": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        ('{"text": "a\0b"}', "a NUL character at column 12"),
        ('{"text": "a\\u0000b"}', "text holds a NUL character"),
        ('{"text": NaN}', "NaN is not JSON"),
        ('{"text": "a", "p": -Infinity}', "-Infinity is not JSON"),
        ('{"text": "a"} {"text": "b"}', "something follows the JSON value"),
        ('{"text": "a"},', "something follows the JSON value"),
        ('{"text": null}', "text is null"),
        ('{"text": 3}', "text is a number, not text"),
        ('{"text": "\\udc00"}', "half a surrogate pair"),
        ("[" * 600, "nested too deeply"),
        ("{'text': 'a'}", "not JSON"),
        ("null", "a row is an object with keys, this is null"),
        ('{"n": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
    ],
)
def test_a_bad_line_costs_itself_alone(write_rows: Write, line: str, reason: str) -> None:
    found = check(write_rows(f'{{"text": "before"}}\n{line}\n{{"text": "after"}}\n'))
    assert (found.rows, found.bad_count) == (2, 1)
    assert found.bad_rows[0].line == 2
    assert reason in found.bad_rows[0].reason


@pytest.mark.parametrize(
    ("middle", "line", "reason"),
    [
        ('  {"text": "b", "text": "c"},\n', 3, "the key 'text' stands twice"),
        ('  {"text": NaN},\n', 3, "NaN is not JSON"),
        ('  {"text": "b}\n,\n', 3, "not JSON: Invalid control character"),
        ("  {'text': 1},\n", 3, "not JSON"),
        ("  oops,\n", 3, "starts no value"),
        ('  {"text": 5},\n', 3, "text is a number"),
    ],
)
def test_an_array_goes_on_after_an_element_that_cannot_be_read(write_rows: Write, middle: str, line: int, reason: str) -> None:
    found = check(write_rows('[\n  {"text": "a"},\n' + middle + '  {"text": "d"},\n  {"text": "e"}\n]', "rows.json"))
    assert (found.rows, [bad.line for bad in found.bad_rows]) == (3, [line])
    assert reason in found.bad_rows[0].reason


def test_a_byte_of_no_utf_8_in_an_array_costs_its_element(write_rows: Write) -> None:
    found = check(write_rows(b'[\n{"text": "caf\xe9"},\n{"text": "ok"}\n]', "rows.json"))
    assert (found.rows, [str(bad).rpartition(":")[0].rpartition("rows.json")[2] for bad in found.bad_rows]) == (1, [":2: not UTF-8"])


@pytest.mark.parametrize(
    ("content", "rows", "told"),
    [
        ('[{"text": "a"} {"text": "b"}]', 1, "a comma is missing"),
        ('[{"text": "a"}] trailing', 1, "something follows the array's end"),
        ('[{"text": "a"}, {"text": ', 1, "the array cannot be read from here on"),
        ('[{"text": "a"}, ', 1, "its ] is missing"),
    ],
)
def test_an_array_on_one_line_tells_where_it_breaks(write_rows: Write, content: str, rows: int, told: str) -> None:
    found = check(write_rows(content, "rows.json"))
    assert (found.rows, found.bad_count) == (rows, 1)
    assert told in found.bad_rows[0].reason


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("element", ['{"text": "b", "text": "c"}', '{"text": "b", "n": NaN}', '{"text": "b", "n": ' + "9" * 5000 + "}"])
def test_an_element_that_is_json_and_cannot_be_used_costs_itself_alone(write_rows: Write, indent: int | None, element: str) -> None:
    parts = '[{"text": "a"}', element, '{"text": "d"}', '{"text": "e"}]'
    found = check(write_rows((", " if indent is None else ",\n ").join(parts), "rows.json"))
    assert (found.rows, [bad.line for bad in found.bad_rows]) == (3, [2])
    assert "starts no value" not in found.bad_rows[0].reason


def test_an_unusable_element_longer_than_a_block_costs_itself_alone(write_rows: Write) -> None:
    element = '{"k": 1, "k": 2, "text": "' + "x" * 3_000_000 + '"}'
    found = check(write_rows('[{"text": "a"}, ' + element + ', {"text": "b"}]', "rows.json"))
    assert (found.rows, [bad.reason for bad in found.bad_rows]) == (2, ["the key 'k' stands twice in one object"])


ROWS_A = '{\n "data": [\n  {"text": "a"},\n  {"text": "b"}\n ]'


def test_an_object_of_two_arrays_of_rows_is_refused_by_their_names(write_rows: Write) -> None:
    with pytest.raises(InputError, match=r"rows.json:6: a second array of rows, 'more', follows 'data'"):
        check(write_rows(ROWS_A + ',\n "more": [{"text": "c"}]\n}', "rows.json"))


def test_a_row_with_a_list_before_its_own_keys_is_not_taken_for_a_wrapper(write_rows: Write) -> None:
    with pytest.raises(InputError, match="neither a JSON array of rows"):
        check(write_rows(ROWS_A + ',\n "text": "c"\n}', "rows.json"))


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        ("\n} and more", "something follows the object's end"),
        ("", "its } is missing"),
        (',\n "count"', "its } is missing"),
        ("\n oops\n}", "follow the array, nor }"),
        (',\n "count": oops}', "follow the array, nor }"),
    ],
)
def test_what_is_wrong_behind_a_wrapped_array_is_told(write_rows: Write, behind: str, told: str) -> None:
    found = check(write_rows(ROWS_A + behind, "rows.json"))
    assert (found.rows, found.bad_count) == (2, 1)
    assert told in found.bad_rows[0].reason


def test_what_stands_behind_a_wrapped_array_may_be_anything_but_rows(write_rows: Write) -> None:
    assert texts_of(write_rows(ROWS_A + ',\n "n": 2, "none": [], "of": ["x"], "by": {"a": [{}]}\n}\n', "rows.json")) == ["a", "b"]


def test_lines_whose_first_ones_are_cut_are_still_lines(write_rows: Write) -> None:
    found = check(write_rows('{"text": "a\n{"text": \n\n{"text"\n{"text": "d"}\n{"text": "e"}\n', "rows.json"))
    assert (found.rows, [bad.line for bad in found.bad_rows]) == (2, [1, 2, 4])


@pytest.mark.parametrize("content", ['{"data": [\n{"text": "a"}\n]}', '{"data":\n[{"text": "a"}]\n}'])
def test_a_wrapper_of_one_row_is_not_taken_for_lines(write_rows: Write, content: str) -> None:
    assert texts_of(write_rows(content, "rows.json")) == ["a"]


def test_a_row_over_several_lines_is_no_wrapper_and_no_lines(write_rows: Write) -> None:
    turns = '{\n "messages": [\n  {"role": "user", "content": "a"},\n  {"role": "assistant", "content": "b"}\n ]\n}\n'
    with pytest.raises(InputError, match="neither a JSON array of rows"):
        check(write_rows(turns, "rows.json"))


def test_a_long_array_is_read_across_the_borders_of_blocks(write_rows: Write) -> None:
    texts = [f"{number} " + "ä" * (number * 37 % 5000) for number in range(1500)]
    for indent in (None, 1):
        assert texts_of(write_rows(json.dumps([{"text": text} for text in texts], indent=indent, ensure_ascii=False), "rows.json")) == texts


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt", "rows.parquet", "rows.jsonl.gz"])
def test_a_row_of_ten_megabytes_is_a_row(write_rows: Write, tmp_path: Path, name: str) -> None:
    long = "word " * 2_000_000
    if name == "rows.parquet":
        path = parquet(tmp_path / name, [{"text": "short"}, {"text": long}])
    else:
        content = {
            "rows.json": json.dumps([{"text": "short"}, {"text": long}]),
            "rows.csv": as_csv(["short", long]),
            "rows.txt": f"short\n\n{long}",
        }.get(name, as_json_lines(["short", long])).encode()
        path = write_rows(gzip.compress(content, 1) if name.endswith(".gz") else content, name)
    assert texts_of(path) == ["short", long]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.txt", "rows.md", "rows.jsonl.gz"])
@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_told(write_rows: Write, name: str, content: bytes) -> None:
    with pytest.raises(InputError, match="is empty"):
        check(write_rows(gzip.compress(content) if name.endswith(".gz") else content, name))


def test_a_table_of_a_header_alone_has_no_rows(write_rows: Write) -> None:
    assert (check(write_rows("prompt,completion\n", "rows.csv")).rows) == 0


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('"never closed,b', "not CSV"),
        ('"a" b,c', "not CSV"),
        ("a,b,c", "3 cells where the first line names 2"),
        ("a", "1 cell where"),
        ("a,", "completion is null"),
        ("a\0,b", "a NUL character"),
    ],
)
def test_a_broken_row_of_a_table_costs_itself_alone(write_rows: Write, broken: str, reason: str) -> None:
    found = check(write_rows(f'prompt,completion\n"a, 1",b\n{broken}\n5" pipe,"two\nlines"\ne,f\n', "rows.csv"))
    assert (found.rows, [bad.line for bad in found.bad_rows]) == (3, [3])
    assert reason in found.bad_rows[0].reason


def table(write_rows: Write, rows: str) -> tuple[list[Any], list[str]]:
    """Return the prompts of a table's sound rows, and what is said of its bad ones."""
    rows_read = rows_of(write_rows(f"prompt,completion\n{rows}", "rows.csv"))
    bad = [f"{row.line}: {row.reason}" for row in rows_read if isinstance(row, BadRow)]
    return [row.texts[0] for row in rows_read if isinstance(row, Row)], bad


def test_a_cell_of_many_lines_is_one_cell(write_rows: Write) -> None:
    prompts, bad = table(write_rows, '"' + "a line, of prose\n" * 25_000 + '",b\nc,d\n')
    assert ([prompt.count("\n") for prompt in prompts], prompts[1:], bad) == ([25_000, 0], ["c"], [])


def test_rows_that_a_stray_quote_takes_in_are_read_again(write_rows: Write) -> None:
    prompts, bad = table(write_rows, '"hello,world\ngood1,row1\ngood2,row2\nx,y"\nc,d\n')
    assert bad == ["2: lines 2 to 5 make 1 cell where the first line names 2 columns"]
    assert prompts == ["good1", "good2", "x", "c"]


@pytest.mark.parametrize(
    ("rows", "prompts", "told"),
    [
        ('"hello,world\ngood,row\none\n', ["good"], ["2: a quote is opened at line 2 and never closed", "4: 1 cell where"]),
        (
            '"two\nlines","cut\ngood,row\n',
            ["good"],
            ["2: a quote is opened at line 3 and never", "3: a quote is opened at line 3 and never"],
        ),
        ('"a\nb" c,d\ngood,row\n', ['b" c', "good"], ["2: not CSV: ',' expected after '\"' at line 3"]),
        ('a","b\n' * 3 + "good,row\n", ["good"], ["2: lines 2 to 4 make more cells", "3: lines 3 to 4 make more cells", "4: a quote is"]),
    ],
)
def test_the_line_of_a_quote_that_breaks_a_table_is_named(write_rows: Write, rows: str, prompts: list[str], told: list[str]) -> None:
    found, bad = table(write_rows, rows)
    assert found == prompts
    assert all(reason.startswith(start) for reason, start in zip(bad, told, strict=True)), bad


def test_quotes_that_open_on_every_line_take_no_longer_than_the_lines(write_rows: Write) -> None:
    assert len(table(write_rows, 'a",b,"c\n' * 20_000)[1]) == 20_000


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('[{"role": "user", "role": "assistant", "content": "a"}]', "messages is not JSON: the key 'role' stands twice in one object"),
        ('[{"role": "user", "content": "a", "n": NaN}]', "messages is not JSON: NaN is not JSON"),
        ("[{'role': 'user'}]", "messages is not JSON: Expecting property name enclosed in double quotes at column 3"),
        ('[\n{"role": "user",,', "messages is not JSON: Expecting property name enclosed in double quotes at line 2, column 17"),
        ("", "messages is null"),
    ],
)
def test_json_in_a_cell_is_read_as_strictly_as_that_of_a_line(write_rows: Write, cell: str, reason: str) -> None:
    quoted = cell.replace('"', '""')
    assert check(write_rows(f'id,messages\n1,"{quoted}"\n', "rows.csv")).bad_rows[0].reason == reason


def test_a_table_that_names_a_column_twice_is_refused(write_rows: Write) -> None:
    with pytest.raises(InputError, match="the column 'text' is named twice"):
        check(write_rows("text,text\na,b\n", "rows.csv"))


def test_a_file_of_only_bad_rows_is_counted_to_its_end(write_rows: Write) -> None:
    found = check(write_rows("not json\n" * 1000))
    assert (found.rows, found.bad_count, found.format) == (0, 1000, "")


def test_a_million_rows_are_counted_with_their_repeats(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for start in range(0, 1_000_000, 1000):
            file.write("".join(f'{{"text":"{number % 999_000}"}}\n' for number in range(start, start + 1000)))
    found = check(str(path))
    assert (found.rows, found.bad_count, found.duplicate_rows) == (1_000_000, 0, 1000)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
            st.just(b'{"text": "sound"}'),
            st.dictionaries(st.sampled_from(["text", "messages", "prompt"]), st.text(max_size=5)).map(lambda row: json.dumps(row).encode()),
        ),
        max_size=8,
    )
)
def test_whatever_lines_hold_each_is_a_row_or_a_bad_row(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "first"}', *lines]) + b"\n")
    rows = list(FileReader(str(path), path).rows())
    assert [row.line for row in rows] == [1, *(number for number, line in enumerate(lines, 2) if line.decode("utf-8", "replace").strip())]
    assert all(isinstance(key, int) == isinstance(row, Row) for key, row in zip(FileReader(str(path), path).keys(), rows, strict=True))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=200),
    name=st.sampled_from(["r.jsonl", "r.json", "r.csv", "r.tsv", "r.txt", "r.parquet", "r.csv.gz", "r.txt.zst"]),
    lead=st.sampled_from([b"", b"[", b"[{", b'{"data": [', b"a,b\n", b'"']),
    encoding=st.sampled_from(["utf-8", "utf-16-le", "latin-1"]),
)
def test_whatever_bytes_a_file_holds_nothing_but_an_input_error_comes_of_it(
    tmp_path: Path, content: bytes, name: str, lead: bytes, encoding: Any
) -> None:
    path = tmp_path / name
    path.write_bytes(lead + content)
    try:
        found = check(str(path), encoding=encoding)
    except InputError as error:
        assert str(path) in error.message  # noqa: PT017  either end is right
    else:
        assert found.bad_count == len(found.bad_rows)


def test_progress_tells_bytes_up_to_the_last_and_may_cancel(write_rows: Write) -> None:
    path = write_rows([chat("a", "b")] * 5000)
    seen: list[tuple[int, int]] = []
    check_files(DataSettings(train=(path,)), lambda done, total: seen.append((done, total)))
    size = Path(path).stat().st_size
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 2

    def cancel(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_files(DataSettings(train=(path,)), cancel)


def test_rows_that_share_a_line_of_an_array_are_numbered(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"text": "a"}, {"text": ""}, {"text": "c"}]), encoding="utf-8")
    first, second, third = FileReader(str(path), path).rows()
    assert (first.line, second.line, third.line) == (1, 2, 3)
    assert isinstance(second, BadRow)
    assert json.loads(raw_text(path, 2)) == {"text": ""}
    path.write_text('[\n{"text": "a"},\n{"text": "b"}]', encoding="utf-8")
    assert [row.line for row in FileReader(str(path), path).rows()] == [2, 3]
