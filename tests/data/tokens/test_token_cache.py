from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.settings import DataSettings
from lora_studio.data.batching.packing import PackedRows
from lora_studio.data.prepare import PreparedData, prepare_data
from lora_studio.data.tokens import token_cache, tokenize
from lora_studio.data.tokens.lengths import LengthTable
from tests.data.conftest import HEADERS, chat

Write = Callable[..., str]
Make = Callable[..., Any]
ROWS = [chat(f"Question {number}?", f"Answer {number} ✓" * (1 + number % 5)) for number in range(30)]


def prepare(tokenizer: Any, path: str, seed: int = 0, **changes: Any) -> PreparedData:
    return prepare_data(DataSettings(train=(path,), **changes), tokenizer, seed)


def entries() -> list[Path]:
    return [path for path in token_cache.cache_folder().iterdir() if path.is_dir()]


def test_the_second_time_reads_and_tokenizes_nothing(write_rows: Write, tokenizer_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    first = prepare(tokenizer, path)
    monkeypatch.setattr(tokenize, "DatasetScan", None)
    second = prepare(tokenizer, path)
    assert (first.report.cached, second.report.cached) == (False, True)
    assert second.fingerprint == first.fingerprint
    assert {**second.report.to_json(), "cached": False} == first.report.to_json()
    for one, other in zip(first.train, second.train, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.trained.tolist() == other.trained.tolist()


@pytest.mark.parametrize(
    "changes", [{"max_length": 60}, {"eval_fraction": 0.5}, {"eval_rows": 5}, {"packing": True}, {"on_bad_rows": "skip"}]
)
def test_cutting_splitting_and_packing_tokenize_nothing_again(write_rows: Write, tokenizer_with: Make, changes: dict[str, Any]) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    before = prepare(tokenizer, path)
    after = prepare(tokenizer, path, **changes)
    assert after.report.cached
    assert (after.fingerprint == before.fingerprint) == ("on_bad_rows" in changes)


def test_whatever_decides_the_tokens_makes_them_anew(write_rows: Write, tokenizer_with: Make) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    prepare(tokenizer, path)
    assert not prepare(tokenizer, path, train_on="last").report.cached
    assert not prepare(tokenizer, path, chat_template="chatml").report.cached
    assert not prepare(tokenizer_with(HEADERS), path).report.cached
    assert not prepare(tokenizer_with(begins=True), path).report.cached
    write_rows([*ROWS, chat("One more?", "Yes.")])
    assert not prepare(tokenizer, path).report.cached


def test_an_unchanged_file_is_not_hashed_again(write_rows: Write, tokenizer_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(ROWS)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    prepare(tokenizer_with(), path)
    monkeypatch.setattr(token_cache, "sha256_of", None)
    assert prepare(tokenizer_with(), path).report.cached


@pytest.mark.parametrize("name", ["manifest.json", "input_ids.bin", "trained.bin", "lengths.npy", "trained_at.npy", "places.npy"])
@pytest.mark.parametrize("how", ["gone", "cut", "garbage"])
def test_a_broken_entry_is_made_again(write_rows: Write, tokenizer_with: Make, name: str, how: str) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    whole = prepare(tokenizer, path)
    broken = Path(whole.report.lengths) / name
    content = broken.read_bytes()
    broken.unlink()
    if how != "gone":
        broken.write_bytes(content[: len(content) // 2] if how == "cut" else b"\x93 no such thing")
    again = prepare(tokenizer, path)
    assert not again.report.cached
    assert again.fingerprint == whole.fingerprint
    assert prepare(tokenizer, path).report.cached


def test_a_build_that_is_cancelled_leaves_nothing(write_rows: Write, tokenizer_with: Make) -> None:
    def cancel(_done: int, total: int) -> None:
        if total:
            raise Cancelled

    with pytest.raises(Cancelled):
        prepare_data(DataSettings(train=(write_rows(ROWS),)), tokenizer_with(), 0, cancel)
    assert entries() == []


def test_hashing_the_files_is_cancelled_as_well(write_rows: Write, tokenizer_with: Make) -> None:
    def cancel(_done: int, total: int) -> None:
        assert not total
        raise Cancelled

    with pytest.raises(Cancelled):
        prepare_data(DataSettings(train=(write_rows(ROWS),)), tokenizer_with(), 0, cancel)


def test_two_builders_of_the_same_data_end_with_one_whole_entry(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows(ROWS)
    found: list[str] = []

    def build(tokenizer: Any) -> None:
        found.append(prepare(tokenizer, path).fingerprint)

    threads = [threading.Thread(target=build, args=(tokenizer_with(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(entries()) == 1


def test_the_least_used_entries_go_first(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    reports = [prepare(tokenizer, write_rows(ROWS[: number + 5], f"{number}.jsonl")).report for number in range(3)]
    folders = [Path(report.lengths) for report in reports]
    for age, folder in zip((30, 10, 20), folders):
        os.utime(folder / "manifest.json", (1_000_000_000 - age, 1_000_000_000 - age))
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in folders]
    token_cache.prune(keep=folders[1].name, most_bytes=sizes[1] + sizes[2])
    assert [folder.exists() for folder in folders] == [False, True, True]
    token_cache.prune(keep=folders[2].name, most_bytes=0)
    assert [folder.exists() for folder in folders] == [False, False, True]


def test_a_full_disk_is_told_and_leaves_nothing(write_rows: Write, tokenizer_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenize.StoreWriter, "add", full)
    with pytest.raises(StudioError, match="No space left on device"):
        prepare(tokenizer_with(), write_rows(ROWS))
    assert entries() == []


def test_samples_of_a_cached_set_need_the_data_files_once(write_rows: Write, tokenizer_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    first = prepare(tokenizer, path).samples(3)
    monkeypatch.setattr("lora_studio.data.tokens.samples.file_readers", None)
    assert prepare(tokenizer, path).samples(3) == first
    assert all(sample.reference.startswith("Answer") for sample in first)


def test_a_count_of_held_out_rows_is_kept_to(write_rows: Write, tokenizer_with: Make) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    prepared = prepare(tokenizer, path, eval_rows=7)
    assert (len(prepared.train), len(prepared.evaluation)) == (23, 7)
    with pytest.raises(InputError, match="eval_rows is 30, and the training files have 30 rows") as raised:
        prepare(tokenizer, path, eval_rows=30)
    assert raised.value.field == "data.eval_rows"


def test_no_row_is_both_trained_on_and_held_out_after_packing(write_rows: Write, tokenizer_with: Make) -> None:
    tokenizer = tokenizer_with()
    prepared = prepare(tokenizer, write_rows(ROWS), eval_fraction=0.3, packing=True, max_length=256)
    assert isinstance(prepared.blocks, PackedRows)
    packed = [bytes(part) for block in prepared.blocks for part in np.split(block.input_ids, block.borders)]
    held_out = {row.input_ids.tobytes() for row in prepared.evaluation}
    assert len(packed) == 21
    assert len(held_out) == 9
    assert not held_out & set(packed)


def test_the_report_tells_of_another_length_without_the_tokens(write_rows: Write, tokenizer_with: Make) -> None:
    path, tokenizer = write_rows(ROWS), tokenizer_with()
    report = prepare(tokenizer, path).report
    table = LengthTable.open(Path(report.lengths))
    for max_length in (50, 60, 90):
        cut, told = table.at(max_length), prepare(tokenizer, path, max_length=max_length, eval_fraction=0.0).report
        assert (cut.cut_rows, cut.untrained_rows, cut.tokens, cut.trained) == (
            told.truncated_rows,
            told.untrained_rows,
            told.tokens.total,
            told.tokens.trained,
        )
        assert (cut.blocks, cut.efficiency) == (told.packing["blocks"], told.packing["efficiency"])


def test_rows_that_train_nothing_are_named(write_rows: Write, tokenizer_with: Make) -> None:
    path = write_rows([chat("Short?", "Yes."), chat("Long? " * 80, "No."), chat("Short?", "Yes.")])
    report = prepare(tokenizer_with(), path, max_length=64, eval_fraction=0.0).report.to_json()
    assert (report["untrained"], report["untrained_rows"], report["train_rows"]) == ([f"{path}:2"], 1, 2)


def test_nothing_stored_is_a_pickle(write_rows: Write, tokenizer_with: Make) -> None:
    folder = Path(prepare(tokenizer_with(), write_rows(ROWS)).report.lengths)
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".bin", ".npy"}
    for path in folder.glob("*.npy"):
        np.load(path, allow_pickle=False)
    assert json.loads((folder / "manifest.json").read_text())["files"][0]["rows"] == 30
