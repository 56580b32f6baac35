"""27 kinds of rows, each word that matters standing once, so that a text can be asked what became of it.

Words are told by how they begin: ASK and SYS are context, RES is a tool's, SAY is an answer's, CALL is in a call's arguments,
MULL is thought.
"""

from __future__ import annotations

from typing import Any

Turn = dict[str, Any]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "track",
        "description": "Say where a parcel is.",
        "parameters": {"type": "object", "properties": {"parcel": {"type": "string", "description": "Its mark."}}, "required": ["parcel"]},
    },
}
OTHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weigh",
        "description": "Weigh a parcel.",
        "parameters": {"type": "object", "properties": {"parcel": {"type": "string", "description": "Its mark."}}, "required": ["parcel"]},
    },
}


def ask(word: str) -> Turn:
    return {"role": "user", "content": f"Where is ASK{word}, please?"}


def say(word: str, **more: Any) -> Turn:
    return {"role": "assistant", "content": f"It is SAY{word}.", **more}


def think(word: str, said: str, key: str = "reasoning_content") -> Turn:
    return say(said, **{key: f"They want MULL{word}, I think."})


def tagged(word: str, said: str) -> Turn:
    return {"role": "assistant", "content": f"<think>\nThey want MULL{word}, I think.\n</think>\n\nIt is SAY{said}."}


def call(*words: str, content: str | None = "", name: str = "track", text: bool = False, **more: Any) -> Turn:
    calls: list[dict[str, Any]] = []
    for number, word in enumerate(words):
        arguments: Any = {"parcel": f"CALL{word}"}
        if text:
            arguments = '{"parcel": "CALL' + word + '"}'
        calls.append(
            {"id": f"call{word}{number:04}"[:9].ljust(9, "0"), "type": "function", "function": {"name": name, "arguments": arguments}}
        )
    return {"role": "assistant", "content": content, "tool_calls": calls, **more}


def told(word: str, calling: Turn, number: int = 0) -> Turn:
    made = calling["tool_calls"][number]
    return {"role": "tool", "name": made["function"]["name"], "tool_call_id": made["id"], "content": f"Found at RES{word}."}


SYSTEM: Turn = {"role": "system", "content": "You sort mail, SYSONE."}


def _parts(turn: Turn) -> Turn:
    return {**turn, "content": [{"type": "text", "text": turn["content"]}]}


def _kinds() -> dict[str, dict[str, Any]]:
    one, two = call("one"), call("two")
    mixed = call("one")
    mixed["tool_calls"] += call("two", name="weigh")["tool_calls"]
    null, spoken, written = call("one", content=None), call("one", content="Let me see, SAYone."), call("one", text=True)
    thoughtful = call("one", reasoning_content="They want MULLone, I think.")
    twice = call("one", "two")
    tools = [TOOL, OTHER]
    turns: dict[str, list[Turn]] = {
        "plain": [ask("one"), say("one")],
        "system": [SYSTEM, ask("one"), say("one")],
        "three turns": [ask("one"), say("one"), ask("two"), say("two"), ask("three"), say("three")],
        "system, three turns": [SYSTEM, ask("one"), say("one"), ask("two"), say("two"), ask("three"), say("three")],
        "short answers": [ask("one"), {"role": "assistant", "content": "e"}, ask("two"), {"role": "assistant", "content": "user"}],
        "white space, code": [ask("one"), {"role": "assistant", "content": "  SAYone:\n\n```python\nprint('<b>')\n```\n"}],
        "weight 0": [ask("one"), {**say("one"), "weight": 0}, ask("two"), say("two")],
        "call": [ask("one"), one],
        "call, null content": [ask("one"), null, told("one", null), say("two")],
        "call after words": [ask("one"), spoken, told("one", spoken), say("two")],
        "call, arguments as text": [ask("one"), written, told("one", written), say("two")],
        "call and result": [SYSTEM, ask("one"), one, told("one", one), say("two")],
        "two calls of one function": [ask("one"), twice, told("one", twice), told("two", twice, 1), say("two")],
        "two functions": [ask("one"), mixed, told("one", mixed), told("two", mixed, 1), say("two")],
        "call upon call": [ask("one"), one, told("one", one), two, told("two", two), say("three"), ask("two"), say("four")],
        "reasoning": [ask("one"), think("one", "one")],
        "reasoning, thinking": [ask("one"), think("one", "one", "thinking")],
        "reasoning each turn": [SYSTEM, ask("one"), think("one", "one"), ask("two"), think("two", "two")],
        "reasoning and call": [ask("one"), thoughtful, told("one", thoughtful), think("two", "two")],
        "think in content": [ask("one"), tagged("one", "one")],
        "think in content each turn": [ask("one"), tagged("one", "one"), ask("two"), tagged("two", "two")],
        "thought of an earlier turn alone": [ask("one"), think("one", "one"), ask("two"), say("two")],
        "assistant first": [say("zero"), ask("one"), say("one")],
        "two users in a row": [ask("one"), ask("two"), say("one")],
        "two answers in a row": [ask("one"), say("one"), say("two")],
        "content as parts": [_parts(SYSTEM), _parts(ask("one")), _parts(say("one"))],
        "empty answer": [ask("one"), say("one"), ask("two"), {"role": "assistant", "content": ""}, ask("three"), say("three")],
    }
    return {
        name: {"messages": found, **({"tools": tools} if any("tool_calls" in turn for turn in found) else {})}
        for name, found in turns.items()
    }


KINDS = _kinds()
