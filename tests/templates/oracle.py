"""What a published template makes of a row by transformers' own rendering, and what is right or wrong with ours. Shares no code with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tests.templates.marks import is_end, marks_of

_WORD = re.compile(r"\b(?:ASK|SYS|RES|SAY|CALL|MULL)\w+")


def render(template: str, tokenizer: Any, messages: list[dict[str, Any]], tools: Any, *, opened: bool = False) -> str:
    """Render as `apply_chat_template` does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    names: dict[str, Any] = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    found: Any = render_jinja_template([messages], chat_template=template, tools=tools, add_generation_prompt=opened, **names)
    return found[0][0]


def shapes(messages: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the ways in which a conversation may be handed to a template."""
    found: list[list[dict[str, Any]]] = []
    for empty in ("", None):
        for parts in (False, True):
            for text in (False, True):
                found.append([_shaped(turn, empty, parts=parts, text=text) for turn in messages])
    return [*found, [_thinking(turn) for turn in found[0]]]


def _thinking(turn: dict[str, Any]) -> dict[str, Any]:
    """Return thoughts as a part of the content, as some reasoning models' templates want them."""
    if "reasoning_content" not in turn:
        return turn
    said = [{"type": "text", "text": turn["content"]}] if turn["content"] else []
    return {**turn, "content": [{"type": "thinking", "thinking": turn["reasoning_content"]}, *said]}


def _shaped(turn: dict[str, Any], empty: str | None, *, parts: bool, text: bool) -> dict[str, Any]:
    import json

    shaped = {key: value for key, value in turn.items() if key != "weight"}
    for key in ("reasoning_content", "thinking"):
        if key in turn:
            shaped |= {"reasoning_content": turn[key], "thinking": turn[key]}
    content = turn.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content)
    if content:
        shaped["content"] = [{"type": "text", "text": content}] if parts else content
    else:
        shaped["content"] = empty if "tool_calls" in turn else content
    if "tool_calls" in turn:
        calls: list[Any] = []
        for call in turn["tool_calls"]:
            arguments = call["function"]["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            calls.append({**call, "function": {**call["function"], "arguments": json.dumps(arguments) if text else arguments}})
        shaped["tool_calls"] = calls
    return shaped


def words_of(messages: list[dict[str, Any]]) -> set[str]:
    """Return the words a row says."""
    return set(_WORD.findall(str(messages)))


def written_whole(text: str, messages: list[dict[str, Any]], tools: Any) -> bool:
    """Return whether a text holds every word of a row, the tools' names too, and nothing written down as an object."""
    names = [tool["function"]["name"] for tool in tools or ()]
    as_object = "'type': 'text'" in text or '"type": "text"' in text
    return not as_object and all(re.search(rf"\b{word}\b", text) for word in [*words_of(messages), *names])


@dataclass
class Verdict:
    """What is wrong with one row, empty lists where nothing is."""

    mask: list[str] = field(default_factory=list[str])
    stop: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])


def judge(text: str, trained: list[bool], messages: list[dict[str, Any]], wanted: list[int], template: str) -> Verdict:
    """Judge a rendered row, a truth value a character."""
    verdict = Verdict(lost=sorted(word for word in words_of(messages) if word not in text))
    answers = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
    for place, turn in enumerate(messages):
        for word in words_of([turn]):
            for found in re.finditer(rf"\b{word}\b", text):
                all_trained, any_trained = all(trained[found.start() : found.end()]), any(trained[found.start() : found.end()])
                if place in wanted and not all_trained:
                    verdict.mask.append(f"{word} is context")
                if place not in wanted and any_trained:
                    verdict.mask.append(f"{word} is trained")
    ends = [mark for mark in marks_of(template) if is_end(mark)] + ["</s>"]
    pattern = re.compile("|".join(sorted(map(re.escape, {*marks_of(template), "</s>", "<s>"}), key=len, reverse=True)))
    for place in answers:
        if place in wanted and (found := _untrained_stop(text, trained, messages, place, pattern, ends)):
            verdict.stop.append(found)
    return verdict


def _untrained_stop(
    text: str,
    trained: list[bool],
    messages: list[dict[str, Any]],
    place: int,
    marks: re.Pattern[str],
    ends: list[str],
) -> str:
    """Name the first end mark behind an answer where it is there and not trained, or `none` behind an answer that has no end."""
    said = [text.rfind(word) + len(word) for word in words_of([messages[place]]) if word in text]
    if not said:
        return ""
    start = max(said)
    later = [at for word in words_of(messages[place + 1 :]) if (at := text.find(word, start)) >= 0]
    stop = min(later, default=len(text))
    run: list[re.Match[str]] = []
    for mark in marks.finditer(text, start, stop):
        if mark[0] in ends and (not run or run[-1].end() == mark.start()):
            run.append(mark)
        elif run or (mark[0] not in ends and any(other in mark[0].lower() for other in ("start", "user", "begin|", "inst]", "role"))):
            break
    if not run and any(trained[mark.start()] for mark in marks.finditer(text, start, stop)):
        return ""  # an end by another name
    missed = [mark[0] for mark in run if not all(trained[mark.start() : mark.end()])]
    if missed:
        return f"{missed[0]} (turn {place + 1})"
    return "" if run else f"none (turn {place + 1})"
