from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files, readers_of
from lora_studio.data.readers.files import file_readers
from lora_studio.data.readers.row_index import RowIndex
from lora_studio.data.rows.row import BadRow, Row

ROWS = 1700
KINDS = ["rows.jsonl", "rows.json", "rows.csv", "rows.txt", "rows.parquet", "rows.jsonl.gz", "rows.csv.zst", "wide.jsonl"]


def text_of(number: int) -> str:
    kept = "Needle" if number in (3, 900, 1699) else "hay"
    return f'row {number} {"é" * (number % 7)} {kept} “{number}”, "q"' + "\n" * (number % 2) + "end"


def write(folder: Path, name: str) -> str:
    texts = [text_of(number) for number in range(ROWS)]
    path = folder / name
    if name == "rows.parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=300)
        return str(path)
    out = io.StringIO(newline="")
    if ".csv" in name:
        csv.writer(out).writerows([["text"], *([text] for text in texts)])
    elif name == "rows.txt":
        out.write("\n\n".join(texts))
    elif name == "rows.json":
        json.dump([{"text": text} for text in texts], out, indent=1)
    else:
        out.writelines(json.dumps({"text": text}, ensure_ascii=bool(number % 3)) + "\n" for number, text in enumerate(texts))
    content = out.getvalue().encode("utf-16" if name.startswith("wide") else "utf-8")
    if name.endswith(".gz"):
        content = gzip.compress(content)
    path.write_bytes(pa.compress(content, codec="zstd", asbytes=True) if name.endswith(".zst") else content)
    return str(path)


def settings_of(path: str) -> DataSettings:
    return DataSettings(train=(path,), encoding="utf-16" if "wide" in path else "utf-8")


def numbers(index: RowIndex, text: str, start: int = 0) -> list[int]:
    return [number for number in index.search(text, start) if number is not None]


@pytest.mark.parametrize("name", KINDS)
def test_any_row_is_the_one_met_in_sequence(tmp_path: Path, name: str) -> None:
    settings = settings_of(write(tmp_path, name))
    expected = list(file_readers(settings)[0][1].rows())
    index = RowIndex(settings)
    while not index.complete:
        index.grow(400)
    assert len(index) == len(expected) == ROWS
    for number in (0, 1699, 255, 256, 1000, 999, 3, 512, 1698):
        assert index.row(number) == expected[number]
        assert isinstance(expected[number], Row)


@pytest.mark.parametrize("name", KINDS)
def test_a_search_finds_the_rows_that_hold_a_text_and_grows_the_index(tmp_path: Path, name: str) -> None:
    index = RowIndex(settings_of(write(tmp_path, name)))
    assert numbers(index, "needle") == [3, 900, 1699]
    assert numbers(index, "NEEDLE", start=4) == [900, 1699]
    assert numbers(index, "needle", start=1700) == []
    assert numbers(index, "row 77 ") == [77]
    assert numbers(index, "“1234”") == [1234]
    assert numbers(index, 'ééééé Needle “900”, "q"') == []
    assert numbers(index, 'éééé Needle “900”, "q"') == [900]
    assert numbers(index, "nowhere") == []
    assert numbers(index, "") == []


def test_a_row_is_found_as_soon_as_the_index_has_grown_to_it(tmp_path: Path) -> None:
    index = RowIndex(settings_of(write(tmp_path, "rows.jsonl")))
    with pytest.raises(IndexError):
        index.row(0)
    assert (index.grow(10), len(index), index.complete) == (10, 10, False)
    assert isinstance(index.row(9), Row)
    with pytest.raises(IndexError):
        index.row(10)
    index.grow(10)
    assert isinstance(index.row(10), Row)


def test_rows_go_on_from_file_to_file_with_bad_ones_in_their_places(tmp_path: Path) -> None:
    for name, lines in (("a.jsonl", '{"text": "a0"}\nnot json\n\n{"text": "a2"}\n'), ("b.jsonl", '{"other": 1}\n{"text": "b1"}\n')):
        (tmp_path / name).write_text(lines)
    settings = DataSettings(train=(str(tmp_path / "a.jsonl"),), eval=(str(tmp_path / "b.jsonl"),))
    check = check_files(settings)
    index = RowIndex(settings, readers_of(check, settings))
    index.grow()
    rows = [index.row(number) for number in range(len(index))]
    assert [row.text if isinstance(row, Row) else row.line for row in rows] == ["a0", 2, "a2", 1, "b1"]
    assert [index.split(number) for number in (0, 2, 3)] == ["train", "train", "eval"]
    assert isinstance(rows[1], BadRow)


def test_long_rows_make_short_blocks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number} " + "x" * 500_000}) + "\n" for number in range(20)))
    index = RowIndex(DataSettings(train=(str(path),)))
    index.grow()
    row = index.row(13)
    assert isinstance(row, Row)
    assert row.text.startswith("13 ")
    assert max(len(rows) for rows in index._blocks.values()) <= 3  # pyright: ignore[reportPrivateUsage]


def test_a_damaged_file_ends_where_it_breaks_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    content = "".join(json.dumps({"text": f"{number * 7919 % 65537:x}" * 20}) + "\n" for number in range(40_000))
    path.write_bytes(gzip.compress(content.encode(), 1)[:-3000])
    index = RowIndex(DataSettings(train=(str(path),)))
    index.grow()
    assert index.complete
    assert [type(error) for error in index.errors] == [InputError]
    assert isinstance(index.row(0), Row)
