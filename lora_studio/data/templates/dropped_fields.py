"""What a row says and its text does not: a template leaves out in silence what it does not know. Light: runs in the child that renders.

Thoughts and calls are put in other words and rendered again: a word that then is nowhere in the text was never written, whatever
else of the row reads alike. Content is looked for as it is, since templates lay it out anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lora_studio.data.templates.jinja_env import REASONING, Span
from lora_studio.data.templates.shapes import OF_A_TRIAL, Turns, stand_in

DroppedKind = Literal[
    "thoughts", "calls", "answers", "questions", "system turns", "results", "tools", "earlier thoughts", "earlier answers"
]
CONTEXT = frozenset({"earlier thoughts", "earlier answers"})
"""What is lost of answers that are context: at inference the model does not see it either."""
_STEERING = re.compile(r"/\w+")
_WORDS = re.compile(r"\w+")
TAGGED = re.compile(r"(?s)^(.*?)(<think(?:ing)?>|\[THINK\])(.*?)(</think(?:ing)?>|\[/THINK\])(.*)$")
"""An answer whose thoughts stand in its content: before, mark, thoughts, mark, behind."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Something of a row that its text lacks.

    Attributes:
        kind: What it is; those of `CONTEXT` are of answers that are not learned.
        said: What a sentence calls it, with its turn.
        place: Its turn.
    """

    kind: DroppedKind
    said: str
    place: int


@dataclass(frozen=True, slots=True)
class _Word:
    """A word that stands for something said."""

    text: str
    kind: DroppedKind
    said: str
    place: int


def losses_of(
    messages: Turns,
    tools: Sequence[Any] | None,
    text: str,
    answers: Mapping[int, Sequence[Span]] | None,
    fill: Callable[[Turns], str],
) -> list[Loss]:
    """Look for what a row says in its text.

    Args:
        messages: Turns as rows have them.
        tools: Tools that may be called; None for none.
        text: What the template made of them.
        answers: The stretches of the text where each wanted answer stands, by its turn; None where all is learned.
        fill: Renders other turns in the same way.
    """
    said = {place: text for place, turn in enumerate(messages) if turn["role"] == "assistant"}
    context = text
    if answers is not None:
        said = {place: "".join(text[start:end] for start, end in spans) for place, spans in answers.items()}
        context = _outside(text, sorted(span for spans in answers.values() for span in spans))
    found = [
        *_of_answers(messages, said, text, fill),
        *_of_calls(messages, said, fill),
        *_of_names(messages, tools, text),
        *_of_context(messages, context),
    ]
    return list({(loss.kind, loss.said): loss for loss in reversed(found)}.values())[::-1]


def _of_answers(messages: Turns, said: dict[int, str], text: str, fill: Callable[[Turns], str]) -> Iterator[Loss]:
    turns, words = _in_other_words(messages)
    told: dict[int, set[str]] = {}
    if words:
        other = _rendered(turns, fill)
        for word in words:
            if other is not None and word.text in other:
                continue
            if other is None and word.place in said and word.kind == "thoughts":
                continue  # the template takes no other words; what it makes of these is looked for below
            if word.place in said and word.said not in told.setdefault(word.place, set()):
                told[word.place].add(word.said)
                yield Loss(word.kind, word.said, word.place)
            elif word.place not in said:
                yield Loss("earlier thoughts" if word.kind == "thoughts" else "earlier answers", word.said, word.place)
    for place, turn in enumerate(messages):
        if turn["role"] == "assistant" and place not in said and not _thinks(turn) and not _longest_stands(turn["content"] or "", text):
            yield Loss("earlier answers", f"what the assistant says in turn {place + 1}", place)
    for place, part in said.items():
        yield from (loss for loss in _of_answer(messages[place], part, place) if loss.said not in told.get(place, ()))


def _of_answer(message: dict[str, Any], said: str, place: int) -> Iterator[Loss]:
    found = TAGGED.match(message["content"] or "")
    for part in (found[1], found[5]) if found else (message["content"] or "",):
        if not _stands(part.strip(), said):
            yield Loss("answers", f"what the assistant says in turn {place + 1}", place)


def _of_calls(messages: Turns, said: Mapping[int, str], fill: Callable[[Turns], str]) -> Iterator[Loss]:
    """Look for calls by other names, each its own: a name may stand in what is said beside the call, and be called twice."""
    calls = [(place, call["function"]["name"]) for place in said for call in messages[place].get("tool_calls") or ()]
    if not calls:
        return
    words = [stand_in() for _ in calls]
    turns, left = list(messages), iter(words)
    for place in said:
        renamed = [{**call, "function": {**call["function"], "name": next(left)}} for call in messages[place].get("tool_calls") or ()]
        turns[place] = {**messages[place], "tool_calls": renamed} if renamed else messages[place]
    other = _rendered(turns, fill)
    for (place, name), word in zip(calls, words):
        stands = len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", said[place]))  # where the template takes no other names
        if word not in other if other is not None else stands < calls.count((place, name)):
            yield Loss("calls", f"tool calls ({name} in turn {place + 1})", place)


def _of_names(messages: Turns, tools: Sequence[Any] | None, text: str) -> Iterator[Loss]:
    functions = [tool.get("function", tool) for tool in tools or ()]
    offered = [function["name"] for function in functions if isinstance(function, dict) and isinstance(function.get("name"), str)]
    missing = [name for name in offered if not _stands(name, text)]
    if missing:
        yield Loss("tools", f"tools ({missing[0]})", 0)
    called = [(place, call["function"]["name"]) for place, turn in enumerate(messages) for call in turn.get("tool_calls") or ()]
    if called and not any(_stands(name, text) for _, name in called):
        yield Loss("calls", f"tool calls ({called[0][1]} in turn {called[0][0] + 1})", called[0][0])


def _of_context(messages: Turns, context: str) -> Iterator[Loss]:
    for place, message in enumerate(messages):
        content = message["content"] or ""
        if message["role"] == "system" and not _system_stands(content, context):
            yield Loss("system turns", f"system turns (turn {place + 1})", place)
        if message["role"] == "user" and not _longest_stands(content, context):
            yield Loss("questions", f"what the user says in turn {place + 1}", place)
        if message["role"] == "tool" and not _longest_stands(content, context):
            yield Loss("results", f"what tools answer (turn {place + 1})", place)


def _rendered(turns: Turns, fill: Callable[[Turns], str]) -> str | None:
    try:
        return fill(turns)
    except OF_A_TRIAL:
        return None


def _in_other_words(messages: Turns) -> tuple[Turns, list[_Word]]:
    """Put thoughts, calls and what is said beside them in other words."""
    words: list[_Word] = []
    turns: Turns = []
    for place, message in enumerate(messages):
        plain = message["role"] != "assistant" or not (_thinks(message) or message.get("tool_calls"))
        turns.append(message if plain else _turn_in_other_words(message, place, words))
    return turns, words


def _thinks(message: dict[str, Any]) -> bool:
    return any(message.get(key) for key in REASONING) or bool(TAGGED.match(message["content"] or ""))


def _turn_in_other_words(message: dict[str, Any], place: int, words: list[_Word]) -> dict[str, Any]:
    def word(kind: DroppedKind, said: str) -> str:
        words.append(_Word(stand_in(), kind, said, place))
        return words[-1].text

    turn = dict(message)
    thoughts, answer = f"the thoughts of turn {place + 1}", f"what the assistant says in turn {place + 1}"
    by_text = {text: word("thoughts", thoughts) for text in dict.fromkeys(message.get(key) for key in REASONING) if text and text.strip()}
    turn.update({key: by_text[message[key]] for key in REASONING if message.get(key) in by_text})
    content = message["content"] or ""
    if (found := TAGGED.match(content)) and found[3].strip():
        turn["content"] = f"{found[1]}{found[2]}\n{word('thoughts', thoughts)}\n{found[4]}" + (
            f"\n\n{word('answers', answer)}" if found[5].strip() else ""
        )
    elif content.strip():
        turn["content"] = word("answers", answer)
    if message.get("tool_calls"):
        turn["tool_calls"] = [_call_in_other_words(call, place, word) for call in message["tool_calls"]]
    return turn


def _call_in_other_words(call: dict[str, Any], place: int, word: Callable[[DroppedKind, str], str]) -> dict[str, Any]:
    name = call["function"]["name"]

    def put(value: Any) -> Any:
        if isinstance(value, str):
            return word("calls", f"tool calls ({name} in turn {place + 1})") if value.strip() else value
        if isinstance(value, dict):
            return {key: put(inner) for key, inner in value.items()}
        return [put(inner) for inner in value] if isinstance(value, list) else value

    return {**call, "function": {**call["function"], "arguments": put(call["function"]["arguments"])}}


def _system_stands(content: str, text: str) -> bool:
    """Look for the longest line: some templates take out what only steers them, such as `/no_think`."""
    return _stands(content.strip(), text) or _stands(max(_STEERING.sub("", content).splitlines(), key=len, default="").strip(), text)


def _longest_stands(content: str, text: str) -> bool:
    """Look for the longest word: a result may be JSON that the template lays out anew."""
    return _stands(max(_WORDS.findall(content), key=len, default=content.strip()), text)


def _stands(piece: str, text: str) -> bool:
    """Look for a piece as it is, as JSON escapes it, and with its white space laid out anew."""
    if piece in text:
        return True
    escaped = (json.dumps(piece, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(form in text for form in escaped) or "".join(piece.split()) in "".join(text.split())


def _outside(text: str, spans: Sequence[Span]) -> str:
    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    return "\n".join(text[end:start] for end, start in zip([0, *ends], [*starts, len(text)]))
