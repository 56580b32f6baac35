"""What chat templates do to rows in ways that real ones do, each kind with a small template of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import validate_config
from lora_studio.core.errors import InputError
from lora_studio.core.settings import DataSettings
from lora_studio.data.prepare import prepare_data
from lora_studio.data.rows.row import Message, Row, RowError
from lora_studio.data.templates.template import ChatTemplate, Rendered, per_answer
from lora_studio.data.templates.template_source import adapters_template, with_variables
from lora_studio.data.tokens.encode import Encoder
from tests.data.conftest import chat
from tests.data.templates.template_styles import CHATML

Make = Callable[..., Any]
Opened = Callable[..., ChatTemplate]
ASK, SAY = Message("user", "Where is it?"), Message("assistant", "In Celle.")
THOUGHT = Message("assistant", "In Celle.", extra={"reasoning_content": "They ask where."})
CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": "seven"}}}
AGAIN = {"type": "function", "function": {"name": "track", "arguments": {"parcel": "eight"}}}

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
TAIL = "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
DEAF = HEAD + "{{ m.content }}" + TAIL
THINKING = (
    HEAD
    + ("{% if m.role == 'assistant' %}{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}{{ m.content }}")
    + TAIL
)
SWITCHED = THINKING.replace(
    "assistant\\n' }}{% endif %}",
    "assistant\\n' + ('<think>\\n' if enable_thinking | default(true) else '<think>\\n\\n</think>\\n\\n') }}{% endif %}",
)


def row_of(*messages: Message, **changes: Any) -> Row:
    return Row("rows.jsonl", 3, "messages", messages, **changes)


@pytest.fixture
def opened(tokenizer_with: Make) -> Iterator[Opened]:
    made: list[ChatTemplate] = []

    def make(text: str, **options: Any) -> ChatTemplate:
        made.append(ChatTemplate(tokenizer_with(text), **options))
        return made[-1]

    yield make
    for template in made:
        template.close()


def learned(found: Rendered | RowError) -> list[str]:
    assert isinstance(found, Rendered), found
    return [found.text[start:end] for start, end in found.spans]


TAGGED = Message("assistant", "<think>\nThey ask where.\n</think>\n\nIn Celle.")
STRIPPING = DEAF.replace("m.content", "m.content.split('</think>')[-1]")


@pytest.mark.parametrize(
    ("template", "answer", "lost"),
    [
        (DEAF, THOUGHT, "the thoughts of turn 2"),
        (STRIPPING, TAGGED, "the thoughts of turn 2"),
        (DEAF, Message("assistant", "where", extra={"thinking": "where"}), "the thoughts of turn 2"),
        (
            CHATML.template.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]"),
            Message("assistant", "", extra={"tool_calls": [CALL, AGAIN]}),
            "tool calls (track in turn 2)",
        ),
    ],
    ids=["key", "tags", "same words", "second call"],
)
def test_what_the_template_leaves_out_refuses_the_row_with_the_ways_out(opened: Opened, template: str, answer: Message, lost: str) -> None:
    (found,) = opened(template).render_rows([row_of(ASK, answer)], "assistant")
    assert str(found).startswith(f"the chat template does not write {lost}; ")
    assert "data.on_unwritten" in str(found)


ADD = {"type": "function", "function": {"name": "add", "arguments": {"x": 11111}}}
BARE = {"type": "function", "function": {"name": "add", "arguments": {}}}
CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.name ~ (c.function.arguments | tojson) }}{% endfor %}"
PICKY = (
    HEAD
    + "{{ m.content }}{% for c in m.tool_calls or [] %}{% if c.function.name != 'add' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    + TAIL
)


@pytest.mark.parametrize(
    ("template", "calls", "refused"),
    [
        (DEAF, [ADD], True),
        (DEAF, [BARE], True),
        (PICKY, [ADD], True),
        (HEAD + "{{ m.content }}" + CALLS + TAIL, [ADD], False),
        (HEAD + "{{ m.content }}" + CALLS + TAIL, [ADD, ADD], False),
        (HEAD + "{{ m.content }}" + CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]") + TAIL, [ADD, ADD], True),
    ],
)
def test_a_call_whose_name_stands_in_what_is_said_is_no_written_call(
    opened: Opened, template: str, calls: list[Any], refused: bool
) -> None:
    answer = Message("assistant", "Now adding these.", extra={"tool_calls": calls})
    found = opened(template).render_rows([row_of(ASK, answer)], "assistant")[0]
    assert isinstance(found, RowError) == refused
    assert not refused or "does not write tool calls (add in turn 2)" in str(found)


def test_a_question_of_marks_alone_is_missed_where_it_is_left_out(opened: Opened) -> None:
    silent = HEAD + "{% if m.role != 'user' %}{{ m.content }}{% endif %}" + TAIL
    found = opened(silent).render_rows([row_of(Message("user", "???"), SAY)], "assistant")[0]
    assert isinstance(found, RowError)
    assert "what the user says in turn 1" in str(found)


def test_the_only_answer_to_learn_is_learned_wherever_it_stands() -> None:
    row = row_of(ASK, SAY, ASK, Message("assistant", "No.", trained=False))
    (part,) = per_answer(row)
    assert part.messages == (ASK, SAY)


def test_advice_that_is_followed_already_is_not_given_again(opened: Opened) -> None:
    found = opened(STRIPPING, on_unwritten="content").render_rows([row_of(ASK, TAGGED)], "assistant")[0]
    assert isinstance(found, RowError)
    assert "to content" not in str(found)


def test_what_is_left_out_is_trained_without_or_kept_in_the_content_as_the_settings_say(opened: Opened) -> None:
    rows = [row_of(ASK, THOUGHT)]
    (without,) = opened(DEAF, on_unwritten="without").render_rows(rows, "assistant")
    (kept,) = opened(DEAF, on_unwritten="content").render_rows(rows, "assistant")
    assert learned(without) == ["In Celle.<|im_end|>"]
    assert isinstance(without, Rendered)
    assert without.lost == ("thoughts",)
    assert learned(kept) == ["<think>\nThey ask where.\n</think>\n\nIn Celle.<|im_end|>"]


def test_thoughts_that_the_template_takes_out_of_the_content_cannot_be_kept_there(opened: Opened) -> None:
    (found,) = opened(STRIPPING, on_unwritten="content").render_rows([row_of(ASK, THOUGHT)], "assistant")
    assert "does not write the thoughts of turn 2" in str(found)


TWO_ENDS = DEAF.replace("'<|im_end|>\\n'", "'<|im_end|></s>'")
WRITTEN_LATER = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ ('<|im_end|>' if not loop.first else '') + '<|im_start|>' + m.content + '</s>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
OTHER_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + ('</s>' if loop.last and not add_generation_prompt and "
    "m.role == 'assistant' else '<|im_end|>') }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ALWAYS_OPEN = DEAF.replace("{% if add_generation_prompt %}", "").replace("{% endif %}", "")


@pytest.mark.parametrize(
    ("template", "first", "last"),
    [
        (TWO_ENDS, "<|im_end|></s>", "<|im_end|></s>"),
        (WRITTEN_LATER, "<|im_end|>", ""),
        (OTHER_END, "<|im_end|>", "</s>"),
        (ALWAYS_OPEN, "<|im_end|>", "<|im_end|>"),
    ],
    ids=["two ends", "written by the next turn", "another end for the last", "always opens another answer"],
)
def test_the_end_of_an_answer_is_trained_whatever_it_is_made_of(opened: Opened, template: str, first: str, last: str) -> None:
    (found,) = opened(template).render_rows([row_of(ASK, SAY, ASK, SAY)], "assistant")
    assert learned(found) == ["In Celle." + first, "In Celle." + last]


def test_a_template_that_rewrites_history_and_opens_no_answer_gives_its_last_answer_whole(opened: Opened) -> None:
    rewriting = DEAF.split("{% if add_generation_prompt")[0].replace("m.content", "(m.content if loop.last or m.role == 'user' else 'so')")
    (found,) = opened(rewriting).render_rows([row_of(ASK, SAY)], "last")
    assert learned(found) == ["In Celle.<|im_end|>"]


LATER_ALONE = DEAF.replace("'<|im_end|>\\n'", "('<|im_end|>' if loop.last or m.role == 'user' else '') + '\\n'")


@pytest.mark.parametrize(
    ("template", "train_on", "said", "field"),
    [
        (LATER_ALONE, "assistant", "Set data.train_on to each, which trains every answer in a row of its own", "data.train_on"),
        (LATER_ALONE, "each", "", ""),
        (WRITTEN_LATER, "assistant", "set data.chat_template to instruct, which ends every answer with <|im_end|>", "data.chat_template"),
        (ALWAYS_OPEN, "all", "", ""),
        (DEAF, "all", "", ""),
        (WRITTEN_LATER, "all", "set data.chat_template to instruct", "data.chat_template"),
    ],
)
def test_where_answers_have_no_end_token_the_setting_that_helps_is_named_and_only_there(
    tokenizer_with: Make,
    write_rows: Make,
    template: str,
    train_on: str,
    said: str,
    field: str,
) -> None:
    settings = DataSettings.model_validate(
        {"train": (write_rows([chat("Who?", "He.", "Where?", "In Celle.")]),), "train_on": train_on, "eval_fraction": 0}
    )
    found = [
        finding for finding in prepare_data(settings, tokenizer_with(template), seed=0).report.findings if finding.code == "rows_unended"
    ]
    assert [finding.field for finding in found] == ([field] if field else [])
    assert all(said in finding.hint for finding in found)


def test_rows_of_text_lack_their_end_where_the_tokenizer_names_none(tokenizer_with: Make, write_rows: Make) -> None:
    tokenizer = tokenizer_with(None)
    tokenizer.eos_token = None
    settings = DataSettings(train=(write_rows([{"text": "A parcel."}, {"text": "A letter."}]),), eval_fraction=0)
    (found,) = prepare_data(settings, tokenizer, seed=0).report.findings
    assert "the base model's tokenizer names none" in found.message
    assert ("eos_token" in found.hint, found.field) == (True, "model.name_or_path")


def test_white_space_behind_the_end_token_is_no_missing_end(tokenizer_with: Make, opened: Opened) -> None:
    marked = HEAD.replace("{{ '<|im_start|>'", "{{ '<|im_start|>'") + (
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>\\n' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    )
    (found,) = opened(marked).render_rows([row_of(ASK, SAY)], "assistant")
    assert learned(found) == ["In Celle.<|im_end|>\n"]
    assert isinstance(found, Rendered)
    encoder = Encoder(tokenizer_with(marked))
    assert encoder.unended(encoder.encode([found])) == 0
    bare = Rendered("In Celle.\n", ((0, 10),), closed=True)
    assert encoder.unended(encoder.encode([bare])) == 1


def test_thoughts_in_the_row_are_learned_where_the_prompt_opens_with_empty_ones(opened: Opened) -> None:
    (found,) = opened(SWITCHED, variables={"enable_thinking": False}).render_rows([row_of(ASK, THOUGHT)], "assistant")
    assert learned(found) == ["<think>\nThey ask where.\n</think>\n\nIn Celle.<|im_end|>"]


def test_a_row_that_opens_otherwise_than_the_prompt_is_told_with_both_and_the_variable_that_helps(opened: Opened) -> None:
    broken = SWITCHED.replace("'<think>\\n' + (m.reasoning_content or '') + '\\n</think>", "'<think>\\n\\n</think>")
    broken = broken.replace("('<think>\\n' if", "('<think>\\nHm' if")
    (found,) = opened(broken).render_rows([row_of(ASK, SAY)], "assistant")
    assert isinstance(found, Rendered)
    assert found.opening is not None
    row, prompt = found.opening
    assert row.endswith("<think>\n\n</think>\n\n")
    assert prompt.endswith("<think>\nHm")
    assert found.cure == {"enable_thinking": False}
    assert learned(found) == ["<think>\n\n</think>\n\nIn Celle.<|im_end|>"]
    (context,) = opened(broken, answer_opening="context").render_rows([row_of(ASK, SAY)], "assistant")
    assert learned(context) == ["In Celle.<|im_end|>"]
    (cured,) = opened(broken, variables={"enable_thinking": False}).render_rows([row_of(ASK, SAY)], "assistant")
    assert isinstance(cured, Rendered)
    assert cured.opening is None


PARTS = DEAF.replace("{{ m.content }}", "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}")
WRITTEN_ARGUMENTS = CHATML.template.replace("({'name': f.name, 'arguments': f.arguments} | tojson)", "f.name + ' ' + f.arguments")
NULL = CHATML.template.replace(
    "+ m.content }}", "+ (m.content if m.content is not none else '') }}{% if m.content == '' %}{{ raise_exception('empty') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "answer", "said"),
    [
        (PARTS, SAY, "In Celle.<|im_end|>"),
        (
            WRITTEN_ARGUMENTS,
            Message("assistant", "", extra={"tool_calls": [CALL]}),
            '<tool_call>\ntrack {"parcel": "seven"}\n</tool_call><|im_end|>',
        ),
        (
            NULL,
            Message("assistant", "", extra={"tool_calls": [CALL]}),
            '<tool_call>\n{"name": "track", "arguments": {"parcel": "seven"}}\n</tool_call><|im_end|>',
        ),
    ],
    ids=["parts", "arguments as text", "null"],
)
def test_a_template_gets_what_a_row_says_in_the_shape_it_wants(opened: Opened, template: str, answer: Message, said: str) -> None:
    (found,) = opened(template).render_rows([row_of(ASK, answer)], "assistant")
    assert [text.strip() for text in learned(found)] == [said]


def test_marked_stretches_of_one_answer_are_taken_together(opened: Opened) -> None:
    template = HEAD + (
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{{ '\\n' }}{% generation %}{{ '<|im_end|>' }}"
        "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    (found,) = opened(template).render_rows([row_of(ASK, SAY, ASK, SAY)], "assistant")
    assert learned(found) == ["In Celle.\n<|im_end|>"] * 2


@pytest.mark.parametrize(
    "messages", [(SAY, ASK, SAY), (ASK, ASK, SAY), (ASK, SAY, SAY)], ids=["answer first", "two questions", "two answers"]
)
def test_turns_in_another_order_are_taken_where_the_template_takes_them(opened: Opened, messages: tuple[Message, ...]) -> None:
    (found,) = opened(DEAF).render_rows([row_of(*messages)], "assistant")
    assert learned(found) == ["In Celle.<|im_end|>"] * sum(message.role == "assistant" for message in messages)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages[0].content + None }}", "it joins text with nothing"),
        ("{{ nobody.name }}", "it uses 'nobody', which nothing gives it"),
        ("{{ messages[0].name.first }}", "it looks for 'name', which an object in the row does not have"),
        ("\n\n{{ messages[9].content }}", "in its line 3: it looks for an element that"),
    ],
)
def test_what_a_template_fails_on_is_a_sentence(opened: Opened, template: str, said: str) -> None:
    (found,) = opened(template).render_rows([row_of(ASK, SAY)], "all")
    assert str(found).startswith("the chat template fails on it")
    assert said in str(found)


LAST_THINKS = HEAD + "{{ m.content if loop.last or m.role == 'user' else m.content.split('</think>')[-1].strip() }}" + TAIL


def test_a_row_whose_earlier_thoughts_are_taken_out_is_refused_by_itself_and_split_into_answers(opened: Opened) -> None:
    row = row_of(ASK, TAGGED, ASK, TAGGED)
    template = opened(LAST_THINKS)
    refused, sound = template.render_rows([row, row_of(ASK, TAGGED)], "assistant")
    assert "leaves out the thoughts of turn 2 once later turns follow" in str(refused)
    assert isinstance(sound, Rendered)
    parts = template.render_rows(list(per_answer(row)), "each")
    assert [learned(part) for part in parts] == [[TAGGED.content + "<|im_end|>"]] * 2


def test_rows_by_answer_are_held_out_together_and_their_prompts_end_before_them(tokenizer_with: Make, write_rows: Make) -> None:
    rows = [chat(f"Question {number}?", "One.", f"More {number}?", "Two.", "And?", "Three.") for number in range(8)]
    settings = RunConfig().replace({"data.train": (write_rows(rows),), "data.train_on": "each", "data.eval_fraction": 0.25}).data
    prepared = prepare_data(settings, tokenizer_with(), seed=3)
    assert (len(prepared.train), len(prepared.evaluation)) == (18, 6)
    samples = prepared.samples(3)
    assert [sample.reference for sample in samples] == ["One.", "Two.", "Three."]


def test_the_report_counts_what_is_left_out_and_tells_both_openings_with_the_way_out(tokenizer_with: Make, write_rows: Make) -> None:
    thought = {**chat("Where is it?", "In Celle.")["messages"][1], "reasoning_content": "They ask where."}
    rows = [{"messages": [{"role": "user", "content": "Where is it?"}, thought]}, chat("Who?", "He.")]
    settings = RunConfig().replace({"data.train": (write_rows(rows),), "data.on_unwritten": "without", "data.eval_fraction": 0}).data
    opening = DEAF.replace("assistant\\n' }}{% endif %}", "assistant\\n' + ('' if effort == 'none' else '<think>') }}{% endif %}")
    left_out, differs = prepare_data(settings, tokenizer_with(opening), seed=0).report.findings
    assert (left_out.code, left_out.field) == ("rows_left_out", "data.on_unwritten")
    assert left_out.message.startswith("1 row has thoughts that the chat template does not write (the first is ")
    assert "learns not to think" in left_out.message
    assert (differs.code, differs.field) == ("opening_differs", "data.answer_opening")
    assert "2 rows open their answers with" in differs.message
    assert "assistant\\n<think>'" in differs.message
    assert "{'effort': 'none'}" in differs.hint


def test_an_answer_before_the_last_that_is_left_out_of_the_context_is_a_note(opened: Opened) -> None:
    template = DEAF.replace("m.content", "(m.content if loop.last or m.role == 'user' else '')")
    (found,) = opened(template).render_rows([row_of(ASK, Message("assistant", "Nowhere."), ASK, SAY)], "last")
    assert isinstance(found, Rendered)
    assert found.lost == ("earlier answers",)


def test_a_variable_that_the_template_does_not_have_is_named_with_those_it_has(opened: Opened) -> None:
    with pytest.raises(InputError, match="has no variable thinking") as raised:
        opened(SWITCHED, variables={"thinking": True}).render_rows([row_of(ASK, SAY)], "assistant")
    assert raised.value.hint == "It has enable_thinking."
    assert raised.value.field == "data.chat_template_kwargs"


def test_variables_are_part_of_prompts_and_of_what_the_tokens_are_kept_under(opened: Opened) -> None:
    plain, switched = opened(SWITCHED), opened(SWITCHED, variables={"enable_thinking": False})
    assert plain.identity != switched.identity
    (prompt,) = switched.prompts([row_of(ASK, SAY)])
    assert isinstance(prompt, Rendered)
    assert prompt.text.endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "_x", "a b"])
def test_a_name_that_is_no_variable_of_a_template_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is no variable of a chat template's own"):
        validate_config({"data": {"chat_template_kwargs": {name: True}}})


def test_variables_are_read_as_a_form_writes_them() -> None:
    config = validate_config({"data": {"chat_template_kwargs": ["enable_thinking=false", "effort=low", "budget=7"]}})
    assert config.data.chat_template_kwargs == {"enable_thinking": False, "effort": "low", "budget": 7}
    with pytest.raises(InputError, match="write name=value"):
        validate_config({"data": {"chat_template_kwargs": ["enable_thinking"]}})


def test_an_exported_template_has_the_trained_values_unless_it_is_told_otherwise() -> None:
    from lora_studio.data.templates.jinja_env import CompiledTemplate

    template = with_variables("{{ enable_thinking }} {{ effort }}", {"enable_thinking": False, "effort": 'so "so"\u00fc'})
    assert CompiledTemplate(template, {}).fill([], None) == 'False so "so"\u00fc'
    assert CompiledTemplate(template, {}, {"enable_thinking": True}).fill([], None) == 'True so "so"\u00fc'


def test_a_chat_and_an_adapters_folder_use_the_values_of_the_run(tokenizer_with: Make, tmp_path: Path) -> None:
    from lora_studio.export.verify.tokenizer_files import TokenizerFiles, copy_template
    from lora_studio.inference.chat import prompt_ids

    tokenizer, settings = tokenizer_with(SWITCHED), DataSettings(chat_template_kwargs={"enable_thinking": False})
    asked = prompt_ids(tokenizer, "Where is it?", settings)
    assert tokenizer.decode(asked).endswith("<think>\n\n</think>\n\n")
    copy_template(tmp_path, TokenizerFiles(tokenizer, with_variables(SWITCHED, settings.chat_template_kwargs), "", ()))
    carried = adapters_template(tmp_path)
    assert prompt_ids(tokenizer, "Where is it?", DataSettings(chat_template=carried)) == asked


OPENS_INSIDE = HEAD + (
    "{% if m.role == 'assistant' %}{% generation %}{{ '<think>\\n\\n</think>\\n\\n' + m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\nHm' }}{% endif %}"
)


def test_the_opening_of_marked_answers_is_context_where_the_settings_say_so(opened: Opened) -> None:
    rows = [row_of(ASK, SAY, ASK, SAY), row_of(ASK, SAY)]
    for found in opened(OPENS_INSIDE, answer_opening="context").render_rows(rows, "assistant"):
        assert set(learned(found)) == {"In Celle.<|im_end|>"}
        assert isinstance(found, Rendered)
        assert found.opening is not None
    (trained, _) = opened(OPENS_INSIDE).render_rows(rows, "assistant")
    assert learned(trained) == ["<think>\n\n</think>\n\nIn Celle.<|im_end|>"] * 2


def test_the_opening_that_marked_answers_share_with_the_prompt_stays_as_it_is(opened: Opened) -> None:
    alike = OPENS_INSIDE.replace("<think>\\n\\n</think>\\n\\n", "").replace("<think>\\nHm", "")
    (found,) = opened(alike, answer_opening="context").render_rows([row_of(ASK, SAY)], "assistant")
    assert learned(found) == ["In Celle.<|im_end|>"]


@pytest.mark.parametrize("template", [OPENS_INSIDE, SWITCHED.replace("'<think>\\n' if enable", "'<think>\\nHm' if enable")])
def test_openings_are_counted_by_what_the_template_writes_without_a_word_of_the_rows(
    template: str, tokenizer_with: Make, write_rows: Make
) -> None:
    rows = [chat(f"Is it <{name}>[{name}]?\n{name}", "In Celle.") for name in ("Anna", "Berta", "Carla", "Dora")]
    settings = RunConfig().replace({"data.train": (write_rows(rows),), "data.eval_fraction": 0}).data
    (found,) = prepare_data(settings, tokenizer_with(template), seed=0).report.findings
    assert found.code == "opening_differs"
    assert found.message.startswith("4 rows open their answers with ")
    assert not any(name in found.message for name in ("Anna", "Berta", "Carla", "Dora", "Celle"))
    assert "<|im_start|>assistant" in found.message


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("answer", [THOUGHT, Message("assistant", "", extra={"tool_calls": [CALL]})], ids=["thoughts", "calls"])
def test_a_prompt_keeps_of_earlier_answers_what_training_keeps(opened: Opened, answer: Message, train_on: str) -> None:
    template = opened(DEAF, on_unwritten="content", train_on=train_on)
    row = row_of(ASK, answer, ASK, SAY)
    (trained,) = template.render_rows([row], train_on)
    (prompt,) = template.prompts([row])
    assert isinstance(trained, Rendered)
    assert isinstance(prompt, Rendered)
    assert trained.text == prompt.text + "In Celle.<|im_end|>\n"
    assert ("They ask where." in prompt.text) == (answer is THOUGHT and train_on != "last")
    assert ("track" in prompt.text) == (answer is not THOUGHT)
