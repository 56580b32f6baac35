"""Names with values as lines: what is written for a value reads back as the same value."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lora_studio.core.settings import DataSettings
from lora_studio.core.variable_lines import read_lines, written_lines

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
LOOKALIKES = st.sampled_from(
    [
        "1.10",
        "007",
        "-0",
        "1e5",
        "1e999",
        "true",
        "False",
        "null",
        "nan",
        "inf",
        "",
        " a ",
        "a, b=c",
        '"',
        "'x'",
        "\n",
        "\u00a0",
        "\u2028",
        "\ufdd0",
        "\ud800",
        "\u0663",
        "1_000",
    ]
)
SCALARS = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | LOOKALIKES


@given(st.dictionaries(NAMES, SCALARS))
@example({"date_string": "26 Jul 2024", "version": "1.10"})
def test_what_is_written_reads_back_as_the_same_values(values: dict[str, object]) -> None:
    found = read_lines(written_lines(values))
    assert found == values
    assert [type(value) for value in found.values()] == [type(value) for value in values.values()]


@given(SCALARS)
def test_a_value_is_one_line_of_what_an_editor_keeps_as_it_is(value: object) -> None:
    text = written_lines({"name": value})
    assert text.isprintable()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("date_string=26 Jul 2024", {"date_string": "26 Jul 2024"}),
        ("a = 1\n\n b=x, y=z ", {"a": 1, "b": "x, y=z"}),
        ('version="1.10"\nother=1.10', {"version": "1.10", "other": 1.1}),
        ("version='1.10'", {"version": "1.10"}),
        ("enable_thinking=False\nlevel=high\nnothing=", {"enable_thinking": False, "level": "high", "nothing": ""}),
    ],
)
def test_lines_read_as_a_person_means_them(text: str, values: dict[str, object]) -> None:
    assert read_lines(text) == values


@pytest.mark.parametrize(
    ("text", "told"), [("thinking", "write name=value"), ("a=1\na=2", "stands twice"), ('a="1', "does not end with one")]
)
def test_a_line_that_says_nothing_clear_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_lines(text)


def test_a_config_reads_lines_alike() -> None:
    given_lines = ["date_string=26 Jul 2024", 'version="1.10"']
    settings = DataSettings.model_validate({"chat_template_kwargs": given_lines})
    assert settings.chat_template_kwargs == {"date_string": "26 Jul 2024", "version": "1.10"}
