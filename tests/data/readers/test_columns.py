from __future__ import annotations

from collections.abc import Callable

import pytest

from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.check import check_files
from lora_studio.data.readers.columns import suggest_columns
from lora_studio.data.readers.files import file_readers
from lora_studio.data.rows.row import Row
from lora_studio.data.trainable import method_findings, refuse_untrainable

Write = Callable[..., str]


def settings_of(path: str, columns: dict[str, str], row_format: str = "auto") -> DataSettings:
    return DataSettings.model_validate({"train": (path,), "columns": columns, "format": row_format})


def first(settings: DataSettings) -> Row:
    row = next(file_readers(settings)[0][1].rows())
    assert isinstance(row, Row)
    return row


def test_mapped_columns_are_read_as_the_keys_they_are(write_rows: Write) -> None:
    settings = settings_of(write_rows([{"q": "Why?", "a": "Because.", "context": "x"}]), {"prompt": "q", "completion": "a"})
    assert [message.content for message in first(settings).messages] == ["Why?", "Because."]
    assert check_files(settings).files[0].reason == "data.columns names prompt, completion"


def test_mapped_columns_may_change_places(write_rows: Write) -> None:
    path = write_rows([{"prompt": "an answer", "completion": "a question"}])
    row = first(settings_of(path, {"prompt": "completion", "completion": "prompt"}))
    assert [message.content for message in row.messages] == ["a question", "an answer"]


def test_keys_that_no_mapping_names_stay(write_rows: Write) -> None:
    row = first(settings_of(write_rows([{"instruction": "Add", "input": "1+1", "result": "2"}]), {"output": "result"}))
    assert (row.format, [message.content for message in row.messages]) == ("alpaca", ["Add\n\n1+1", "2"])


def test_a_row_without_a_mapped_column_is_bad(write_rows: Write) -> None:
    found = check_files(settings_of(write_rows([{"q": "a", "a": "b"}, {"q": "a"}]), {"prompt": "q", "completion": "a"}))
    assert (found.rows, found.bad_rows[0].line) == (1, 2)
    assert found.bad_rows[0].reason == "the row has no 'a', the column that is completion; its keys are 'q'"


@pytest.mark.parametrize("row", [[], [1], 3, None, {}])
def test_a_row_that_is_no_object_is_bad_with_columns_too(write_rows: Write, row: object) -> None:
    found = check_files(settings_of(write_rows([row, {"q": "a", "a": "b"}]), {"prompt": "q", "completion": "a"}))
    assert (found.rows, [bad.line for bad in found.bad_rows]) == (1, [1])


def test_a_mapping_of_a_key_nobody_has_is_refused_with_the_known_ones(write_rows: Write) -> None:
    with pytest.raises(InputError, match="'question', which no format has") as raised:
        check_files(settings_of(write_rows([{"text": "a"}]), {"question": "q"}))
    assert raised.value.field == "data.columns"
    assert "completion" in raised.value.hint


def test_preference_rows_are_refused_for_sft_until_the_columns_say_what_to_learn(write_rows: Write) -> None:
    path = write_rows([{"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}])
    found = check_files(settings_of(path, {}))
    assert (found.format, found.rows) == ("preference", 1)
    assert [finding.code for finding in method_findings(found)] == ["preference_rows"]
    with pytest.raises(InputError, match="holds preference rows") as raised:
        refuse_untrainable(found)
    assert "{prompt: prompt, completion: chosen}" in raised.value.hint
    chosen = settings_of(path, {"prompt": "prompt", "completion": "chosen"}, "prompt_completion")
    refuse_untrainable(check_files(chosen))
    assert first(chosen).messages[-1].content == "Hello"


def test_labelled_rows_are_refused_for_sft(write_rows: Write) -> None:
    found = check_files(settings_of(write_rows([{"prompt": "Hi", "completion": "Go", "label": False}]), {}))
    with pytest.raises(InputError, match="would learn those labelled false"):
        refuse_untrainable(found)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["id", "Question", "Best Answer"], {"prompt": "Question", "completion": "Best Answer"}),
        (["question", "context", "answer"], {"instruction": "question", "input": "context", "output": "answer"}),
        (["dialogue", "topic"], {"messages": "dialogue"}),
        (["Prompt", "winner", "loser"], {"prompt": "Prompt", "chosen": "winner", "rejected": "loser"}),
        (
            ["user_prompt", "model-answer", "system_prompt"],
            {"prompt": "user_prompt", "completion": "model-answer", "system": "system_prompt"},
        ),
        (["title", "body"], {"text": "body"}),
        (["content", "url"], {"text": "content"}),
        (["only"], {"text": "only"}),
        (["x", "y", "z"], {}),
        ([], {}),
    ],
)
def test_a_mapping_is_suggested_from_the_names_of_columns(names: list[str], expected: dict[str, str]) -> None:
    assert suggest_columns(names) == expected
