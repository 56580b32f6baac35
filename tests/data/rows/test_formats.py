"""Formats: rows as people write them, what is made of each, and what is not taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_studio.data.rows.formats import detect_format, parse_row, quick_key, quick_row, refuse_unread
from lora_studio.data.rows.row import Message, Row, RowError, RowFormat

WEATHER = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "…", "parameters": {"type": "object", "properties": {}}}}


def read(record: dict[str, Any], row_format: RowFormat | None = None) -> Row:
    found = detect_format(record)
    assert found is not None
    return parse_row(record, row_format or found[0], "rows.jsonl", 1)


def said(row: Row) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in row.messages]


def fault(record: dict[str, Any], row_format: RowFormat | None = None) -> str:
    with pytest.raises(RowError) as raised:
        read(record, row_format)
    return str(raised.value)


def turns(*pairs: tuple[str, object], role: str = "role", content: str = "content") -> list[dict[str, object]]:
    return [{role: name, content: text} for name, text in pairs]


TWO = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    ("record", "row_format", "expected"),
    [
        ({"messages": turns(("user", "Hi"), ("assistant", "Hello"))}, "messages", TWO),
        ({"id": 7, "source": "x", "messages": turns(("developer", "Be kind"), *TWO)}, "messages", [("system", "Be kind"), *TWO]),
        ({"messages": turns(("user", [{"type": "text", "text": "H"}, {"text": "i"}]), ("assistant", "Hello"))}, "messages", TWO),
        ({"system": "Be kind", "messages": turns(*TWO)}, "messages", [("system", "Be kind"), *TWO]),
        ({"messages": json.dumps(turns(*TWO))}, "messages", TWO),
        ({"messages": turns(("human", "Hi"), ("gpt", "Hello"), role="from", content="value")}, "messages", TWO),
        ({"conversations": turns(("human", "Hi"), ("gpt", "Hello"), role="from", content="value")}, "sharegpt", TWO),
        (
            {"conversations": turns(("system", "S"), ("user", "Hi"), ("chatgpt", "Hello"), role="from", content="value"), "id": "x"},
            "sharegpt",
            [("system", "S"), *TWO],
        ),
        ({"conversation": turns(("user", "Hi"), ("assistant", "Hello"))}, "sharegpt", TWO),
        (
            {"conversations": turns(("human", "Hi"), ("model", "Hello"), role="from", content="value"), "system": "S"},
            "sharegpt",
            [("system", "S"), *TWO],
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, "alpaca", TWO),
        (
            {"instruction": "Add", "input": "1 and 2", "output": "3", "text": "Below is…"},
            "alpaca",
            [("user", "Add\n\n1 and 2"), ("assistant", "3")],
        ),
        ({"instruction": "Hi", "context": "", "response": "Hello", "category": "chat"}, "alpaca", TWO),
        (
            {"instruction": "B", "input": None, "output": "b", "system": "S", "history": [["A", "a"]]},
            "alpaca",
            [("system", "S"), ("user", "A"), ("assistant", "a"), ("user", "B"), ("assistant", "b")],
        ),
        ({"prompt": "Hi", "completion": "Hello"}, "prompt_completion", TWO),
        ({"prompt": turns(("user", "Hi")), "completion": turns(("assistant", "Hello"))}, "prompt_completion", TWO),
        ({"prompt": turns(("system", "S"), ("user", "Hi")), "completion": "Hello"}, "prompt_completion", [("system", "S"), *TWO]),
        ({"prompt": "Hi", "completion": "Hello", "label": "greeting"}, "prompt_completion", TWO),
        ({"question": "Hi", "answer": "Hello", "id": 1}, "prompt_completion", TWO),
        ({"query": "Hi", "response": "Hello", "type": "GSM"}, "prompt_completion", TWO),
        ({"input": "Hi", "output": "Hello"}, "prompt_completion", TWO),
        ({"prompt": "Hi", "response": "Hello"}, "prompt_completion", TWO),
        ({"prompt": "Hi", "completion": "Hello", "label": True}, "unpaired_preference", TWO),
        ({"prompt": turns(("user", "Hi")), "completion": turns(("assistant", "Hello")), "label": False}, "unpaired_preference", TWO),
        ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, "preference", TWO),
        (
            {"prompt": turns(("user", "Hi")), "chosen": turns(("assistant", "Hello")), "rejected": turns(("assistant", "Go"))},
            "preference",
            TWO,
        ),
        ({"chosen": turns(*TWO), "rejected": turns(("user", "Hi"), ("assistant", "Go")), "score_chosen": 9.0}, "preference", TWO),
        ({"prompt": "Hi", "chosen": turns(*TWO), "rejected": turns(("user", "Hi"), ("assistant", "Go"))}, "preference", TWO),
    ],
)
def test_a_row_as_people_write_it_is_told_and_read(record: dict[str, Any], row_format: str, expected: list[tuple[str, str]]) -> None:
    row = read(record)
    assert (row.format, said(row)) == (row_format, expected)


@pytest.mark.parametrize(
    "record",
    [
        {"question": "a", "answer": "b", "context": "c"},
        {"question": "a", "choices": ["x"], "answer": "b"},
        {"question": "a", "answers": "b"},
        {"question": "a", "answer": "b", "response": "c"},
        {"sentence": "a", "label": 1},
        {},
        {"input": "a", "output": "b", "system": "c"},
    ],
)
def test_what_is_not_clear_is_left_to_the_columns(record: dict[str, Any]) -> None:
    assert detect_format(record) is None


def test_preference_rows_part_prompt_chosen_and_rejected() -> None:
    row = read({"prompt": "Hi", "chosen": "Hello", "rejected": "Go"})
    assert (row.prompt_turns, row.rejected) == (1, (Message("assistant", "Go"),))
    shared = turns(("system", "S"), *TWO, ("user", "More"))
    row = read({"chosen": [*shared, *turns(("assistant", "Yes"))], "rejected": [*shared, *turns(("assistant", "No"))]})
    assert (row.prompt_turns, row.messages[-1].content, row.rejected[0].content) == (4, "Yes", "No")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "a", "chosen": "b"}, "the row has no 'rejected'"),
        ({"chosen": "b", "rejected": "c"}, "the row has no 'prompt'"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "rejected is null"),
        ({"chosen": turns(*TWO), "rejected": turns(*TWO)}, "are the same"),
        ({"chosen": turns(*TWO), "rejected": turns(("user", "Other"), ("assistant", "Go"))}, "the row has no 'prompt'"),
        ({"prompt": "a", "completion": "b", "label": None}, "label is null"),
        ({"prompt": turns(("user", "a")), "completion": turns(("user", "b"))}, "no assistant turn"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "history[0] is no pair"),
        ({"instruction": "a", "output": "b", "history": "x"}, "history is not JSON"),
        ({"instruction": "a", "output": "b", "system": ["x"]}, "system is a list, not text"),
        (
            {"conversations": turns(("human", "a"), ("tool", "b"), ("gpt", "c"), role="from", content="value")},
            "conversations[1] is the tool's",
        ),
        ({"conversations": turns(("human", "a"), ("gpt", None), role="from", content="value")}, "conversations[1] has no value"),
        ({"conversations": turns(("human", "a"), ("bing", "b"), role="from", content="value")}, "the role 'bing'"),
        ({"conversations": []}, "the conversation is empty"),
        ({"conversation": "hello"}, "conversation is not JSON"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record: dict[str, Any], reason: str) -> None:
    assert reason in fault(record)


def test_a_label_that_is_none_is_a_bad_row_of_a_labelled_file() -> None:
    assert fault({"prompt": "a", "completion": "b", "label": 3}, "unpaired_preference") == "label is 3; it can be true or false"
    assert [read({"prompt": "a", "completion": "b", "label": label}).label for label in (True, False, 1, 0, "True", "false")] == [
        True,
        False,
    ] * 3


def test_tool_calls_are_read_with_their_answers_and_the_tools() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    row = read(
        {
            "tools": [TOOL],
            "messages": [
                {"role": "user", "content": "Weather in Rome?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": "sunny"},
                {"role": "assistant", "content": "Sunny."},
            ],
        }
    )
    assert row.messages[1].extra == {"tool_calls": [{"id": "c1", **WEATHER}]}
    assert row.messages[2].extra == {"tool_call_id": "c1", "name": "weather"}
    assert row.tools == (TOOL,)


def test_an_answer_may_end_on_a_call_and_calls_may_follow_calls() -> None:
    calls = {"role": "assistant", "content": "", "tool_calls": [WEATHER]}
    row = read({"messages": [{"role": "user", "content": "?"}, calls, {"role": "tool", "content": ""}, calls]})
    assert [message.role for message in row.messages] == ["user", "assistant", "tool", "assistant"]


def test_older_function_calls_and_functions_are_read_as_tools() -> None:
    row = read(
        {
            "functions": [TOOL["function"]],
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                {"role": "function", "name": "weather", "content": "sunny"},
                {"role": "assistant", "content": "Sunny."},
            ],
        }
    )
    assert (row.messages[1].extra["tool_calls"], row.messages[2].role, row.tools) == ([WEATHER], "tool", (TOOL,))


@pytest.mark.parametrize("observed", ["observation", "tool", "function_response"])
def test_sharegpt_calls_are_read_as_tool_calls(observed: str) -> None:
    row = read(
        {
            "tools": json.dumps([TOOL]),
            "conversations": turns(
                ("human", "?"),
                ("function_call", '{"name": "weather", "arguments": {"city": "Rome"}}'),
                (observed, "sunny"),
                ("gpt", "Sunny."),
                role="from",
                content="value",
            ),
        }
    )
    assert (row.messages[1].extra["tool_calls"], row.messages[2].role, row.tools) == ([WEATHER], "tool", (TOOL,))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{cut"}}]}, "arguments is not JSON"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}, "names no function"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "tool_calls is an object, not a list"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "arguments are a list, not an object"),
        ({"role": "assistant", "content": "a", "weight": 2}, "weight is 2"),
        ({"role": "assistant", "content": "a", "name": 3}, "name is a number"),
        ({"role": "assistant", "content": "a\0"}, "a NUL character"),
    ],
)
def test_a_broken_turn_is_named_by_its_place(turn: dict[str, Any], reason: str) -> None:
    told = fault({"messages": [{"role": "user", "content": "?"}, turn]})
    assert told.startswith("messages[1]")
    assert reason in told


def test_an_answer_to_a_call_nobody_made_is_a_fault() -> None:
    call = {"id": "c1", **WEATHER}
    told = fault(
        {
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c2", "content": "x"},
                {"role": "assistant", "content": "y"},
            ]
        }
    )
    assert "answers the tool call 'c2'" in told


@pytest.mark.parametrize(("tools", "reason"), [("{", "tools is not JSON"), (3, "tools is a number"), (["f"], "tools[0] is text")])
def test_tools_that_are_none_are_a_fault(tools: object, reason: str) -> None:
    assert reason in fault({"messages": turns(*TWO), "tools": tools})


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4), st.sampled_from(["user", "assistant", " "]))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3))
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"]), "content": st.one_of(st.sampled_from(["Hi", "", " "]), VALUES)},
    optional={"weight": VALUES, "tool_calls": VALUES, "name": VALUES},
)


@settings(max_examples=400, deadline=None)
@given(
    record=st.dictionaries(
        st.sampled_from(
            [
                "messages",
                "text",
                "prompt",
                "completion",
                "chosen",
                "rejected",
                "label",
                "tools",
                "system",
                "instruction",
                "output",
                "input",
                "conversations",
                "context",
                "response",
                "history",
            ]
        ),
        VALUES | st.lists(TURN, max_size=4) | st.just(turns(*TWO)) | st.just(turns(*TWO, role="from", content="value")),
        max_size=4,
    ),
    row_format=st.sampled_from(["messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired_preference"]),
)
def test_any_record_is_a_row_or_a_row_error_and_the_quick_look_agrees(record: dict[str, Any], row_format: Any) -> None:
    quick = quick_key(record, row_format)
    try:
        row = parse_row(record, row_format, "f", 1)
    except RowError:
        assert quick is None
        assert quick_row(record, row_format, "f", 1) is None
    else:
        assert quick in (None, row.content_key)
        assert quick_row(record, row_format, "f", 1) in (None, row)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": turns(("system", "S"), *TWO, *TWO)},
        {"text": "a"},
        {"prompt": "a", "completion": "b"},
        {"messages": turns(*TWO), "id": 3},
        {"conversations": turns(("human", "Hi"), ("gpt", "Hello"), role="from", content="value")},
        {"instruction": "a", "input": "", "output": "b"},
    ],
)
def test_usual_rows_take_the_quick_look(record: dict[str, Any]) -> None:
    found = detect_format(record)
    assert found is not None
    assert quick_key(record, found[0]) == read(record).content_key
    assert quick_row(record, found[0], "rows.jsonl", 1) == read(record)


def test_the_same_conversation_has_one_key_in_every_format() -> None:
    rows = [read({"messages": turns(*TWO)}), read({"instruction": "Hi", "output": "Hello"}), read({"prompt": "Hi", "completion": "Hello"})]
    assert len({row.content_key for row in rows}) == 1
    assert read({"messages": turns(("user", "Hi"), ("assistant", "Hello!"))}).content_key != rows[0].content_key


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "a", "output": "b", "label": False},
        {"prompt": "a", "response": "b", "label": "false"},
        {"messages": turns(*TWO), "label": False},
        {"conversations": turns(*TWO, role="from", content="value"), "kto_tag": False},
    ],
)
def test_an_answer_that_is_labelled_false_is_not_learned(record: dict[str, Any]) -> None:
    assert fault(record).endswith("is false: its answer is one not to learn")
    found = detect_format(record)
    assert found is not None
    assert quick_key(record, found[0]) is None
    read({**record, "label": True, "kto_tag": True}, found[0])


def test_a_label_may_be_a_number() -> None:
    row = read({"prompt": "a", "completion": "b", "label": 1.0})
    assert (row.format, row.label) == ("unpaired_preference", True)


@pytest.mark.parametrize(
    ("record", "row_format"),
    [
        ({"instruction": "a", "completion": "b"}, "alpaca"),
        ({"question": "a", "completion": "b"}, "prompt_completion"),
        ({"query": "a", "completion": "b"}, "prompt_completion"),
    ],
)
def test_completion_may_stand_beside_a_question_of_another_name(record: dict[str, Any], row_format: str) -> None:
    row = read(record)
    assert (row.format, said(row)) == (row_format, [("user", "a"), ("assistant", "b")])


def test_the_context_is_read_where_the_input_beside_it_is_empty() -> None:
    assert said(read({"instruction": "a", "input": "", "context": "c", "output": "b"}))[0] == ("user", "a\n\nc")


def test_what_a_turn_thinks_is_kept_under_its_name() -> None:
    row = read({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "thinking": "c"}]})
    assert row.messages[1].extra == {"thinking": "c"}


@pytest.mark.parametrize("key", ["context", "history", "input", "choices"])
def test_a_part_of_the_question_that_would_be_left_out_is_refused(key: str) -> None:
    record: dict[str, Any] = {"prompt": "a", "completion": "b", key: "c"}
    with pytest.raises(RowError, match=f"'{key}' stands beside prompt and completion"):
        refuse_unread(record, "prompt_completion")
    assert quick_row(record, "prompt_completion", "f", 1) is None
    refuse_unread({**record, key: ""}, "prompt_completion")


@pytest.mark.parametrize(
    "beside",
    [
        {"images": ["a.png"]},
        {"image": {"bytes": "…", "path": None}},
        {"Image": "a.png"},
        {"videos": ["a.mp4"]},
        {"audio": "a.wav"},
    ],
)
@pytest.mark.parametrize(
    "record",
    [
        {"messages": turns(*TWO)},
        {"prompt": "Hi", "completion": "Hello"},
        {"instruction": "Hi", "output": "Hello"},
        {"text": "Hi"},
    ],
)
def test_images_beside_the_text_are_told_of(record: dict[str, Any], beside: dict[str, Any]) -> None:
    whole = {**record, **beside}
    found = detect_format(whole)
    assert found is not None
    assert quick_row(whole, found[0], "rows.jsonl", 1) is None
    with pytest.raises(RowError, match="stands beside the text and would be left out: text alone is trained here"):
        refuse_unread(whole, found[0])


def test_a_column_of_images_that_holds_none_is_no_matter() -> None:
    refuse_unread({"messages": turns(*TWO), "images": [], "image": None}, "messages")
