"""Hub data sets, against a small Hub on loopback."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files
from lora_studio.data.readers.dataset_layout import choose_files
from lora_studio.data.readers.hub_dataset import HubName, parse_hub_name
from tests.models.fake_hub import COMMIT, FakeHub, running_hub

REPO = "somebody/rows"
CARD = """---
license: mit
configs:
- config_name: default
  data_files:
  - {split: train, path: "data/train-*"}
  - {split: test_sft, path: ["data/test_sft-*.parquet"]}
- config_name: extra
  data_files: extra/**/*.jsonl
---
# Rows
"""


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), out)
    return out.getvalue()


FILES = {
    "README.md": CARD.encode(),
    ".gitattributes": b"*",
    "data/train-00000-of-00002.parquet": parquet("a", "b"),
    "data/train-00001-of-00002.parquet": parquet("c"),
    "data/test_sft-00000-of-00001.parquet": parquet("d"),
    "extra/deep/er/rows.jsonl": b'{"text": "e"}\n{"text": ""}\n',
}


@pytest.fixture(autouse=True)
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with running_hub(FakeHub(dict(FILES), repo=REPO, kind="datasets")) as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.address)
        yield serving


def check(name: str) -> list[tuple[str, int]]:
    return [(file.path, file.rows) for file in check_files(DataSettings(train=(name,))).files]


def test_the_training_split_of_the_default_configuration_is_read(hub: FakeHub) -> None:
    lead = f"hf://{REPO}/data/train-0000"
    assert check(f"hf://{REPO}") == [(f"{lead}0-of-00002.parquet", 2), (f"{lead}1-of-00002.parquet", 1)]


def test_a_revision_a_configuration_and_a_split_can_be_named(hub: FakeHub) -> None:
    assert check(f"hf://datasets/{REPO}@{COMMIT}?split=test_sft") == [(f"hf://{REPO}/data/test_sft-00000-of-00001.parquet", 1)]
    assert check(f"hf://{REPO}?config=extra&split=train") == [(f"hf://{REPO}/extra/deep/er/rows.jsonl", 1)]


def test_a_bad_row_names_its_file_on_the_hub(hub: FakeHub) -> None:
    found = check_files(DataSettings(train=(f"hf://{REPO}?config=extra",)))
    assert str(found.bad_rows[0]) == f"hf://{REPO}/extra/deep/er/rows.jsonl:2: text is empty"
    assert Path(found.files[0].where).read_bytes() == FILES["extra/deep/er/rows.jsonl"]


def test_files_are_fetched_once_and_read_without_the_hub_after_that(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check(f"hf://{REPO}")
    assert check(f"hf://{REPO}") == first
    assert len([request for request in hub.asked_for("train-00000-of-00002.parquet") if request.range == ""]) <= 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert check(f"hf://{REPO}") == first
    with pytest.raises(InputError, match=r"is not on this machine in full, and the Hub \(127.0.0.1:9\) cannot be reached"):
        check(f"hf://{REPO}?split=test_sft")


def test_fetching_tells_its_progress(hub: FakeHub) -> None:
    seen: list[tuple[int, int]] = []
    check_files(DataSettings(train=(f"hf://{REPO}",)), lambda done, total: seen.append((done, total)))
    fetched = len(FILES["data/train-00000-of-00002.parquet"]) + len(FILES["data/train-00001-of-00002.parquet"])
    assert (fetched, fetched) in seen


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("hf://nobody/nothing", "The Hub has no data set nobody/nothing", "Check the spelling"),
        (f"hf://{REPO}@v9", "has no revision v9", "Leave @revision out"),
        (f"hf://{REPO}?config=none", "has no configuration 'none'", "It has default, extra"),
        (f"hf://{REPO}?split=dev", "has no split 'dev'", "It has train, test_sft"),
        ("hf://rows", "is no name of a Hub data set", "Write hf://owner/name"),
        (f"hf://{REPO}?shard=2", "is no name of a Hub data set", "Write hf://owner/name"),
    ],
)
def test_what_cannot_be_had_is_told_with_the_way_out(hub: FakeHub, name: str, message: str, hint: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        check_files(DataSettings(train=(str(Path(__file__).parent / "none.jsonl"),), eval=(name,)))
    assert hint in raised.value.hint
    assert raised.value.field == "data.eval"


def test_a_gated_data_set_says_how_to_get_in(hub: FakeHub) -> None:
    hub.needs_token = "secret"
    with pytest.raises(InputError, match="is gated") as raised:
        check(f"hf://{REPO}")
    assert f"/datasets/{REPO}" in raised.value.hint


def test_a_hub_in_trouble_is_told_by_its_status(hub: FakeHub) -> None:
    hub.status = 418
    with pytest.raises(StudioError, match="The Hub answered 418"):
        check(f"hf://{REPO}")


@pytest.mark.parametrize("reason", ["refused", "switched off", "silent"])
def test_being_offline_is_said(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    monkeypatch.setattr("lora_studio.hub.reach.CONNECT_SECONDS", 0.3)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9" if reason == "refused" else "http://hub.invalid")
    if reason == "switched off":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="is not on this machine in full, and the Hub") as raised:
        check(f"hf://{REPO}")
    silent.close()
    assert raised.value.hint


def test_a_name_is_read_in_all_its_parts() -> None:
    found = parse_hub_name("hf://a/b.c-d@refs/convert/parquet?config=x%20y&split=dev")
    assert found == HubName("a/b.c-d", "refs/convert/parquet", "x y", "dev")


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["train.jsonl", "test.jsonl", "README.md"], "train", ["train.jsonl"]),
        (["data/validation/a.csv", "data/train/a.csv"], "validation", ["data/validation/a.csv"]),
        (["rows.jsonl", "more.jsonl", "LICENSE.txt"], "train", ["more.jsonl", "rows.jsonl"]),
        (["dev.json", "my_train_set.json"], "train", ["my_train_set.json"]),
        (
            ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"],
            "train_gen",
            ["data/train_gen-00000-of-00001.parquet"],
        ),
        (["train.parquet", "train.csv", "train.txt"], "train", ["train.parquet"]),
        (["en/train/0.parquet", "de/train/0.parquet"], "train", ["de/train/0.parquet", "en/train/0.parquet"]),
    ],
)
def test_splits_are_told_by_names_where_no_card_says(names: list[str], split: str, expected: list[str]) -> None:
    assert choose_files(names, "", "", split, "hf://a/b") == expected


def test_a_configuration_without_a_card_is_a_folder() -> None:
    names = ["en/train/0.parquet", "de/train/0.parquet"]
    assert choose_files(names, "", "en", "train", "hf://a/b") == ["en/train/0.parquet"]
    with pytest.raises(InputError, match="has no configuration 'fr'"):
        choose_files(names, "", "fr", "train", "hf://a/b")


def test_several_configurations_without_a_default_are_asked_for() -> None:
    configs = [{"config_name": name, "data_files": f"{name}.jsonl"} for name in ("main", "socratic")]
    card = f"---\n{json.dumps({'configs': configs})}\n---\n"
    with pytest.raises(InputError, match="has several configurations and none is the default") as raised:
        choose_files(["main.jsonl", "socratic.jsonl"], card, "", "train", "hf://a/b")
    assert "main, socratic" in raised.value.hint
    assert choose_files(["main.jsonl", "socratic.jsonl"], card, "main", "train", "hf://a/b") == ["main.jsonl"]
