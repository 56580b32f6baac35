"""The data set that ships is what its page says it is."""

from __future__ import annotations

import json
import re
from itertools import combinations

from lora_studio.core.config_files import read_config
from lora_studio.core.paths import resources_folder
from lora_studio.data.check import check_files, file_readers
from lora_studio.data.rows.row import Row

CONFIG = read_config(resources_folder() / "starter" / "run.yaml")
ROWS = [row for _split, reader in file_readers(CONFIG.data) for row in reader.rows() if isinstance(row, Row)]


def test_every_starter_row_is_sound() -> None:
    found = check_files(CONFIG.data)
    assert (found.rows, found.format, found.bad_rows) == (320, "messages", ())


def test_every_answer_is_one_json_object_from_the_closed_sets() -> None:
    for row in ROWS:
        answer = json.loads(row.messages[-1].content)
        assert list(answer) == ["queue", "urgency", "summary"]
        assert answer["queue"] in {"account", "billing", "delivery", "general", "returns", "technical"}
        assert answer["urgency"] in {"low", "normal", "high"}
        assert 8 <= len(answer["summary"]) <= 60
        assert "\n" not in row.messages[-1].content


def test_no_prompt_gives_the_format_away() -> None:
    for row in ROWS:
        for message in row.messages[:-1]:
            assert not re.search(r"json|urgency|[{}]", message.content, re.IGNORECASE)


def test_messages_are_varied_and_no_two_alike() -> None:
    words = [set(re.findall(r"\w+", row.messages[-2].content.lower())) for row in ROWS]
    assert max(len(one & other) / len(one | other) for one, other in combinations(words, 2)) < 0.5
    assert len({row.messages[-1].content for row in ROWS}) == len(ROWS)
    lengths = sorted(len(row.messages[-2].content) for row in ROWS)
    assert lengths[-1] > 3 * lengths[16]
