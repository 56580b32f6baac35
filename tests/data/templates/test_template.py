from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from packaging.version import Version

from lora_studio.core.errors import InputError
from lora_studio.data.rows.row import Message, Row, RowError
from lora_studio.data.templates import template as template_module
from lora_studio.data.templates.jinja_env import CompiledTemplate
from lora_studio.data.templates.renderer import Limits
from lora_studio.data.templates.spans import AnswerFinder
from lora_studio.data.templates.template import ChatTemplate, Rendered, wanted_answers
from lora_studio.data.templates.template_source import shipped_template, shipped_templates
from lora_studio.data.templates.turn_ends import RewrittenError
from lora_studio.data.tokens.encode import Encoder
from tests.data.conftest import HEADERS, MODEL_ROLE, REWRITING
from tests.data.templates.template_styles import BY_ARCHITECTURE, CHATML, QWEN3, SLOW, Style

Make = Callable[..., Any]
CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": 7}}}
CALLED = '<tool_call>\n{"name": "track", "arguments": {"parcel": 7}}\n</tool_call>'

MARKS_OF = {
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
}


def row_of(*messages: Message, **changes: Any) -> Row:
    return Row("rows.jsonl", 3, "messages", messages, **changes)


def chat_row(turns: int, *, system: bool = False) -> Row:
    messages = [Message("system", "You sort mail.")] if system else []
    for turn in range(turns):
        messages += [Message("user", f"Where is parcel {turn}?"), Message("assistant", f"Parcel {turn} is \u00fcber there. ✓")]
    return row_of(*messages)


@pytest.fixture
def opened(tokenizer_with: Make) -> Iterator[Callable[..., ChatTemplate]]:
    templates: list[ChatTemplate] = []

    def make(text: str | None = None, setting: str | None = None) -> ChatTemplate:
        tokenizer = tokenizer_with(text)
        tokenizer.add_tokens(MARKS_OF.get(setting or "", []), special_tokens=True)
        templates.append(ChatTemplate(tokenizer, setting))
        return templates[-1]

    yield make
    for template in templates:
        template.close()


def trained_texts(tokenizer: Any, rendered: Rendered | RowError) -> list[str]:
    assert isinstance(rendered, Rendered), rendered
    row = Encoder(tokenizer).encode_row(rendered)
    pairs = zip(row.input_ids.tolist(), row.trained.tolist())
    return [tokenizer.decode([ids for ids, _ in part]) for trained, part in groupby(pairs, key=lambda pair: pair[1]) if trained]


@pytest.mark.parametrize("architecture", BY_ARCHITECTURE)
@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_what_is_trained_is_every_answer_and_its_end_token(
    tokenizer_with: Make, opened: Callable[..., ChatTemplate], architecture: str, turns: int, system: bool
) -> None:
    style = BY_ARCHITECTURE[architecture]
    if system and not style.system:
        pytest.skip("this template refuses a system turn")
    row = chat_row(turns, system=system)
    last_only = style is QWEN3 and turns > 1
    rendered = opened(style.template).render_rows([row], "last" if last_only else "assistant")[0]
    answers = [message.content for message in row.messages if message.role == "assistant"]
    expected = [style.lead + answer + style.end for answer in (answers[-1:] if last_only else answers)]
    assert trained_texts(tokenizer_with(style.template), rendered) == expected


@pytest.mark.parametrize("style", [style for style in BY_ARCHITECTURE.values() if style is not QWEN3])
def test_a_tool_call_is_trained_with_its_end_token(tokenizer_with: Make, opened: Callable[..., ChatTemplate], style: Style) -> None:
    row = row_of(
        Message("user", "Where is parcel 7?"),
        Message("assistant", "", extra={"tool_calls": [CALL]}),
        Message("tool", "In Bremen."),
        Message("assistant", "In Bremen."),
    )
    called, said = trained_texts(tokenizer_with(style.template), opened(style.template).render_rows([row], "assistant")[0])
    assert called.strip() == CALLED + style.end
    assert said.strip() == "In Bremen." + style.end


UNOPENED = {
    "heading": ("{% for m in messages %}{{ '### ' + m.role | capitalize + ':\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}", ""),
    "one line": ("{% for m in messages %}{{ m.role | capitalize + ': ' + m.content + '<|im_end|>\\n' }}{% endfor %}", ""),
    "spaced": ("{% for m in messages %}{{ '[' + m.role + ']' if m.role == 'user' }}{{ ' ' + m.content + '<|im_end|>' }}{% endfor %}", " "),
    "no end": ("{% for m in messages %}{{ m.role | capitalize + ':' + m.content + '\\n' }}{% endfor %}", ""),
    "end on its own line": ("{% for m in messages %}{{ m.role | capitalize + ':' + m.content + '\\n<|im_end|>\\n' }}{% endfor %}", ""),
    "thought when opened": (CHATML.template.replace("assistant\\n' }}{% endif", "assistant\\n<think>' }}{% endif"), ""),
}


@pytest.mark.parametrize("style", UNOPENED)
@pytest.mark.parametrize("answer", ["A", "s", "t", ":", "As", "assistant", "#", "<", "e", "im", "m_end"])
def test_a_short_answer_is_found_behind_its_heading(opened: Callable[..., ChatTemplate], style: str, answer: str) -> None:
    template, lead = UNOPENED[style]
    row = row_of(Message("user", "A or s?"), Message("assistant", answer), Message("user", answer), Message("assistant", answer))
    rendered = opened(template).render_rows([row], "assistant")[0]
    assert isinstance(rendered, Rendered)
    end = {"no end": "", "end on its own line": "\n<|im_end|>"}.get(style, "<|im_end|>")
    assert [rendered.text[start:stop] for start, stop in rendered.spans] == [lead + answer + end] * 2


def spans_of(template: CompiledTemplate, messages: list[dict[str, Any]], wanted: list[int]) -> list[tuple[int, int]] | str:
    try:
        return AnswerFinder(template, ["<|im_start|>", "<|im_end|>", "</s>"]).find(messages, None, wanted).spans
    except (RewrittenError, TemplateError) as error:
        return type(error).__name__


ANSWERS = st.one_of(
    st.text("As:\n <>/|im_endxü", min_size=1, max_size=12).filter(str.strip),
    st.sampled_from(["<think>\nso\n</think>\n\nYes", "</s>", "A<|im_end|>", "assistant", "user\n"]),
)
WRITTEN = {
    **{name: style.template for name, style in BY_ARCHITECTURE.items()},
    **{name: template for name, (template, _) in UNOPENED.items()},
    "headers": HEADERS,
    "model role": MODEL_ROLE,
    "rewriting": REWRITING,
}


@pytest.mark.parametrize("name", WRITTEN)
@given(answers=st.lists(ANSWERS, min_size=2, max_size=4), called=st.booleans())
@settings(max_examples=40, deadline=None)
def test_answers_found_in_the_whole_text_are_those_found_in_its_parts(name: str, answers: list[str], called: bool) -> None:
    messages: list[dict[str, Any]] = []
    for answer in answers:
        messages += [{"role": "user", "content": "A or s?"}, {"role": "assistant", "content": answer}]
    if called:
        messages[1]["tool_calls"] = [CALL]
    quick = CompiledTemplate(WRITTEN[name], {"bos_token": "<s>", "eos_token": "</s>"})
    slow = CompiledTemplate(WRITTEN[name], {"bos_token": "<s>", "eos_token": "</s>"})
    slow.forward = False
    wanted = list(range(1, len(messages), 2))
    assert spans_of(quick, messages, wanted) == spans_of(slow, messages, wanted)


def test_an_answer_that_is_found_in_the_whole_text_costs_one_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    template = CompiledTemplate(CHATML.template, {})
    rendered: list[int] = []
    finder = AnswerFinder(template, ["<|im_end|>"])
    finder.find([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], None, [1])  # how it closes answers is known then
    fill = CompiledTemplate.fill
    monkeypatch.setattr(CompiledTemplate, "fill", lambda *given, **named: (rendered.append(1), fill(*given, **named))[1])
    messages = [{"role": message.role, "content": message.content} for message in chat_row(4).messages]
    finder.find(messages, None, [1, 3, 5, 7])
    assert len(rendered) == 5


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("{% for m in messages %}{{ m.content }}{% if not loop.first %}{{ loop.index0 }}{% endif %}{% endfor %}", True),
        (
            "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
            "{% for m in rest %}{{ m.content }}{% endfor %}",
            True,
        ),
        ("{% for m in messages %}{{ m.content }}{% if loop.last %}.{% endif %}{% endfor %}", False),
        ("{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[-1].role }}", False),
        ("{% for m in messages %}{{ loop.nextitem }}{% endfor %}", False),
        ("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{{ messages | length }}{% endfor %}", False),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{% endfor %}{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% set all %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ all }}", False),
        ("{% set a = messages[1:] %}{% set b = a[1:] %}{% for m in b %}{{ m.content }}{% endfor %}", False),
        ("{{ messages }}", False),
    ],
)
def test_a_template_that_may_look_ahead_is_told_from_one_that_goes_forward(text: str, forward: bool) -> None:
    assert CompiledTemplate(text, {}).forward == forward


@pytest.mark.parametrize("template", [QWEN3.template, REWRITING])
def test_a_template_that_drops_earlier_thinking_refuses_such_rows_alone_and_says_why(
    opened: Callable[..., ChatTemplate],
    template: str,
) -> None:
    refused, whole = opened(template).render_rows([chat_row(2), chat_row(1)], "assistant")
    assert "writes turn 2 otherwise once later turns follow" in str(refused)
    assert "data.train_on: last trains the last answer alone, each trains every answer in a row of its own" in str(refused)
    assert isinstance(whole, Rendered)


@pytest.mark.parametrize(
    ("train_on", "prompt_turns", "wanted"),
    [("assistant", 0, [1, 3, 5]), ("last", 0, [5]), ("completion", 0, [5]), ("completion", 3, [3, 5]), ("all", 0, None)],
)
def test_which_answers_are_wanted(train_on: str, prompt_turns: int, wanted: list[int] | None) -> None:
    row = row_of(*chat_row(3).messages, prompt_turns=prompt_turns)
    assert wanted_answers(row, train_on) == wanted


def test_completion_takes_every_answer_after_the_last_question() -> None:
    called = Message("assistant", "", extra={"tool_calls": [CALL]})
    row = row_of(Message("user", "a"), called, Message("tool", "b"), Message("assistant", "c"))
    assert wanted_answers(row, "completion") == [1, 3]


@pytest.mark.parametrize("name", shipped_templates())
@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
def test_a_shipped_template_marks_its_answers(tokenizer_with: Make, opened: Callable[..., ChatTemplate], name: str, system: bool) -> None:
    row = chat_row(2, system=system)
    rendered = opened(None, name).render_rows([row], "assistant")[0]
    assert isinstance(rendered, Rendered)
    said = [rendered.text[start:end].strip() for start, end in rendered.spans]
    answers = [row.messages[-3].content, row.messages[-1].content]
    assert [text[: len(answer)] for text, answer in zip(said, answers)] == answers
    ends = {text[len(answer) :] for text, answer in zip(said, answers)}
    assert len(ends) == 1
    assert "" not in ends


@pytest.mark.parametrize("name", shipped_templates())
def test_a_shipped_template_opens_an_answer_as_it_renders_one(opened: Callable[..., ChatTemplate], name: str) -> None:
    template, row = opened(None, name), chat_row(2)
    whole, prompt = template.render_rows([row], "last")[0], template.prompts([row])[0]
    assert isinstance(whole, Rendered)
    assert isinstance(prompt, Rendered)
    assert whole.text.startswith(prompt.text)
    assert whole.spans[0][0] == len(prompt.text)


TOOL = {"type": "function", "function": {"name": "track", "parameters": {}}}
WRITTEN_CALLS = {
    "chatml": CALLED + "<|im_end|>",
    "gemma": '{"name": "track", "parameters": {"parcel": 7}}<end_of_turn>',
    "instruct": '{"name": "track", "arguments": {"parcel": 7}}</s>',
    "llama3": '{"name": "track", "parameters": {"parcel": 7}}<|eot_id|>',
    "mistral": '[TOOL_CALLS] [{"name": "track", "arguments": {"parcel": 7}}]</s>',
    "plain": '{"name": "track", "arguments": {"parcel": 7}}</s>',
}


@pytest.mark.parametrize("name", shipped_templates())
@pytest.mark.parametrize("system", [False, True], ids=["", "system"])
def test_a_shipped_template_writes_tools_and_calls(opened: Callable[..., ChatTemplate], name: str, system: bool) -> None:
    turns = [Message("system", "Be kind.")] if system else []
    turns += [
        Message("user", "Where?"),
        Message("assistant", "", extra={"tool_calls": [CALL]}),
        Message("tool", '{"in": "Bremen"}'),
        Message("assistant", "Once more:", extra={"tool_calls": [CALL, CALL]}),
    ]
    rendered = opened(None, name).render_rows([row_of(*turns, tools=(TOOL,))], "assistant")[0]
    assert isinstance(rendered, Rendered)
    assert rendered.text.count('{"type": "function", "function": {"name": "track", "parameters": {}}}') == 1
    assert ("Be kind." in rendered.text) == system
    called, twice = (rendered.text[start:end] for start, end in rendered.spans)
    assert called == WRITTEN_CALLS[name].replace("</s>", "<|im_end|>")
    assert twice.strip().startswith("Once more:")
    assert twice.count('"track"') == 2


BARE = (
    "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CALLS_ALONE = BARE.replace("m.content", "(m.tool_calls[0].function.name if m.tool_calls else m.content)")


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@pytest.mark.parametrize(
    ("template", "turns", "tools", "lost"),
    [
        (BARE, [Message("user", "Where?"), Message("assistant", "", extra={"tool_calls": [CALL]})], (), "tool calls (track in turn 2)"),
        (BARE, [Message("user", "Where?"), Message("assistant", "There.")], (TOOL,), "tools (track)"),
        (
            BARE,
            [Message("system", "Be kind. Say where."), Message("user", "Be kind?"), Message("assistant", "There.")],
            (),
            "system turns (turn 1)",
        ),
        (
            CALLS_ALONE,
            [Message("user", "Where?"), Message("assistant", "Let me look.", extra={"tool_calls": [CALL]})],
            (),
            "what the assistant says in turn 2",
        ),
        (
            CALLS_ALONE,
            [
                Message("user", "Where?"),
                Message("assistant", "", extra={"tool_calls": [CALL]}),
                Message("tool", "In Celle."),
                Message("assistant", "There."),
            ],
            (),
            "what tools answer (turn 3)",
        ),
    ],
)
def test_a_row_is_refused_where_the_template_leaves_out_what_it_says(
    opened: Callable[..., ChatTemplate],
    template: str,
    turns: list[Message],
    tools: tuple[Any, ...],
    lost: str,
    train_on: str,
) -> None:
    found = opened(template).render_rows([row_of(*turns, tools=tools)], train_on)[0]
    assert isinstance(found, RowError)
    assert str(found).startswith(f"the chat template does not write {lost}; take that out of the row, set data.")


@pytest.mark.parametrize("tool", [{"function": "track"}, {"function": None}, {"function": {}}, {"name": 7}])
def test_tools_without_a_name_are_the_templates_to_judge(opened: Callable[..., ChatTemplate], tool: dict[str, Any]) -> None:
    row = row_of(Message("user", "Where?"), Message("assistant", "There."), tools=(tool,))
    assert isinstance(opened(BARE).render_rows([row], "assistant")[0], Rendered)


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (
            BARE.replace("['user', ", "['user', 'system', 'tool', ").replace("m.content", "(m.content | tojson)"),
            [
                Message("system", 'Say "hi" \u00fc\nand go.'),
                Message("user", "a"),
                Message("assistant", "", extra={"tool_calls": []}),
                Message("tool", '{\n  "in": "K\u00f6ln"}'),
                Message("assistant", 'He said "hi"\n\u00fc.'),
            ],
        ),
        (
            BARE.replace("['user', ", "['user', 'system', ").replace("m.content", "m.content.replace('/no_think', '')"),
            [Message("system", "Be kind. /no_think"), Message("user", "a"), Message("assistant", "b")],
        ),
        (BARE.replace("m.content", "m.content.split()|join(' ')"), [Message("user", "a"), Message("assistant", "b\n\n  c")]),
    ],
)
def test_what_a_template_lays_out_anew_is_not_missed(
    opened: Callable[..., ChatTemplate],
    template: str,
    turns: list[Message],
) -> None:
    found = opened(template).render_rows([row_of(*turns)], "all")[0]
    assert isinstance(found, Rendered), found


# Templates are given a turn's reasoning under every name they may ask for, as transformers does from 5.21 on.
SHOWS_REASONING = pytest.mark.skipif(
    Version(version("transformers")) < Version("5.21"), reason="this transformers gives reasoning by the row's own name alone"
)
SEMANTICS = [
    pytest.param("{{ messages | tojson }}", marks=SHOWS_REASONING),
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }} {{ dict(a=1) }}",
    "{{ tools }}{{ bos_token }}{{ strftime_now('%Y') }}{{ undefined_name }}",
    "  {% if true %}\n  a\n  {% endif %}\n b",
    pytest.param("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", marks=SHOWS_REASONING),
    *(style.template for style in BY_ARCHITECTURE.values()),
    *map(shipped_template, shipped_templates()),
]


@pytest.mark.parametrize("text", SEMANTICS)
@pytest.mark.parametrize("opened", [False, True])
def test_a_template_renders_as_in_transformers(text: str, opened: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": "user", "content": "<a> & \u00fc", "thinking": "hm"}, {"role": "assistant", "content": "b", "tool_calls": [CALL]}]
    expected: Any = render_jinja_template([turns], chat_template=text, add_generation_prompt=opened, bos_token="<s>", eos_token="</s>")
    assert CompiledTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}).fill(turns, None, opened=opened) == expected[0][0]


@pytest.mark.parametrize(
    "text",
    [style.template for style in BY_ARCHITECTURE.values() if "generation %" in style.template]
    + [shipped_template(name) for name in shipped_templates()],
)
def test_generation_marks_stand_where_transformers_finds_them(text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    said = (("user", "a"), ("assistant", "b ü"), ("user", "c"), ("assistant", "d"))
    turns = [{"role": role, "content": content} for role, content in said]
    expected: Any = render_jinja_template([turns], chat_template=text, return_assistant_tokens_mask=True, bos_token="<s>", eos_token="</s>")
    found = CompiledTemplate(text, {"bos_token": "<s>", "eos_token": "</s>"}).fill_marked(turns, None)
    assert found == (expected[0][0], expected[1][0])


@pytest.mark.parametrize(
    "text", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}", "{{ namespace(__init__=1) }}", "{{ raise_exception('no') }}"]
)
def test_a_template_that_reaches_out_is_refused_at_its_row(opened: Callable[..., ChatTemplate], text: str) -> None:
    found = opened(text).render_rows([chat_row(1)], "all")[0]
    assert isinstance(found, RowError)
    assert "the chat template refuses it" in str(found)


@pytest.mark.parametrize(
    ("turns", "turn", "mark"),
    [
        (("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello<|im_end|>"), 1, "<|im_start|>"),
        (("Hi", "Hello<|im_end|>"), 2, "<|im_end|>"),
        (("Hi", "Hello<|im_start|>user\nAnd?"), 2, "<|im_start|>"),
    ],
)
def test_a_turn_that_holds_the_templates_own_marks_is_refused(
    opened: Callable[..., ChatTemplate],
    turns: tuple[str, str],
    turn: int,
    mark: str,
) -> None:
    found = opened(CHATML.template).render_rows([row_of(Message("user", turns[0]), Message("assistant", turns[1]))], "assistant")[0]
    assert isinstance(found, RowError)
    assert str(found).startswith(f"turn {turn} holds {mark}, which the chat template writes itself")


def test_special_tokens_the_template_does_not_write_are_left_to_the_row(opened: Callable[..., ChatTemplate]) -> None:
    row = row_of(Message("user", "What is <s> in HTML, and <pad>?"), Message("assistant", "<tool_call>"))
    assert isinstance(opened(CHATML.template).render_rows([row], "assistant")[0], Rendered)


def test_a_text_holds_whatever_it_likes(opened: Callable[..., ChatTemplate]) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n"
    assert opened(CHATML.template).render_rows([Row("rows.jsonl", 1, "text", text=text)], "assistant")[0] == Rendered(
        text, ((0, len(text)),), closed=False
    )


def test_a_template_without_an_end_is_named_at_its_row(opened: Callable[..., ChatTemplate], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "BLOCK_SECONDS", 0.05)
    monkeypatch.setattr(template_module, "ROW_SECONDS", 0.02)
    template = opened("{% if messages|length > 2 %}" + SLOW + "{% endif %}" + CHATML.template)
    with pytest.raises(InputError, match=r"rows.jsonl:3: the base model's chat template does not come to an end") as raised:
        template.render_rows([chat_row(1), chat_row(2)], "assistant")
    assert "chatml" in raised.value.hint
    assert raised.value.field == "model.name_or_path"


@pytest.mark.skipif(sys.platform == "win32", reason="the system does not bound a process's memory so")
def test_a_template_that_takes_more_memory_than_the_child_may_have_is_refused_at_its_row(tokenizer_with: Make) -> None:
    text = "{% if messages|length > 2 %}{{ ('a' * 400_000_000)|length }}{% endif %}" + CHATML.template  # no more than 400 MB
    with ChatTemplate(tokenizer_with(text), limits=Limits(memory=400_000_000)) as template:
        small, large = template.render_rows([chat_row(1), chat_row(2)], "all")
    assert isinstance(small, Rendered)
    assert "too much memory" in str(large)


@pytest.mark.parametrize("heard", [b"", b"\x05", (9).to_bytes(8, "little") + b"cut"])
def test_the_child_ends_in_peace_when_its_parent_does(heard: bytes) -> None:
    command = [sys.executable, "-m", "lora_studio.data.templates.render_main"]
    done = subprocess.run(command, input=heard, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"step": "import"}\n{"step": "compile"}\n', b"")


def test_rows_after_a_lost_block_are_rendered_by_a_new_child(opened: Callable[..., ChatTemplate]) -> None:
    template = opened(CHATML.template)
    first = template.render_rows([chat_row(1)], "assistant")
    renderer: Any = template._renderer
    renderer._child.kill()
    assert template.render_rows([chat_row(1)], "assistant") == first


def test_a_chosen_template_takes_the_place_of_the_models_own(opened: Callable[..., ChatTemplate]) -> None:
    own, chosen, typed = opened(CHATML.template), opened(CHATML.template, "llama3"), opened(None, "{{ messages[0].content }}")
    assert [template.source.origin for template in (own, chosen, typed)] == ["model", "studio", "settings"]
    found = chosen.render_rows([chat_row(1)], "last")[0]
    assert isinstance(found, Rendered)
    assert "<|start_header_id|>" in found.text


@pytest.mark.parametrize(("name", "marks"), MARKS_OF.items())
def test_a_shipped_template_of_another_familys_marks_is_refused_with_those_that_fit(
    tokenizer_with: Make,
    name: str,
    marks: list[str],
) -> None:
    with ChatTemplate(tokenizer_with(None), name) as template, pytest.raises(InputError) as raised:
        template.render_rows([chat_row(1)], "assistant")
    assert all(mark in raised.value.message for mark in marks)
    assert "(chatml, instruct, mistral, plain)" in raised.value.hint
    assert raised.value.field == "data.chat_template"


def test_an_unknown_templates_name_is_told_with_those_that_are_known(tokenizer_with: Make) -> None:
    with pytest.raises(InputError, match="No chat template is called 'lama3'") as raised:
        ChatTemplate(tokenizer_with(None), "lama3")
    assert "chatml, gemma, instruct, llama3, mistral, plain" in raised.value.hint
    assert raised.value.field == "data.chat_template"
