"""`lora-studio chat SOURCE`: one answer, or one after the other; from the base model, the adapter, or both."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator

from lora_studio.cli.console import Console
from lora_studio.cli.jobs import open_host, run_job
from lora_studio.jobs.host import Host
from lora_studio.jobs.spec import JobSpec


def add_arguments(parser: ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("source", metavar="SOURCE", help="a run, a checkpoint, a PEFT adapter folder or a base model")
    parser.add_argument("--prompt", help="ask this and end; without it each line of standard input is a question")
    parser.add_argument("--compare", action="store_true", help="answer with the base model alone too")
    parser.add_argument("--max-new-tokens", metavar="N", type=_whole_number, default=256, help="most tokens of an answer (default: 256)")


def _whole_number(text: str) -> int:
    """Read a number of tokens, at least one."""
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("at least 1")
    return number


def run(console: Console, arguments: Namespace) -> int:
    """Answer; the model stays loaded between questions."""
    with open_host("thread") as host:
        if arguments.prompt is not None:
            _answer(console, host, arguments, arguments.prompt)
            return 0
        for prompt in _questions(console):
            _answer(console, host, arguments, prompt)
    return 0


def _questions(console: Console) -> Iterator[str]:
    """Read questions, until the end of input or an empty line of a person."""
    person = sys.stdin.isatty()
    if person:
        console.note("Ask; an empty line ends.")
    while True:
        if person:
            console.notes.write("> ")
            console.notes.flush()
        line = sys.stdin.readline()
        if not line or (person and not line.strip()):
            return
        if line.strip():
            yield line.rstrip("\n")


def _answer(console: Console, host: Host, arguments: Namespace, prompt: str) -> None:
    task = {"source": arguments.source, "prompt": prompt, "compare": arguments.compare, "max_new_tokens": arguments.max_new_tokens}
    result = run_job(console, host, JobSpec("lora_studio.inference.chat:chat", task, title="Chat", device=True))
    answers = {who: result[who] for who in ("base", "adapter") if result.get(who) is not None}
    for who, text in answers.items():
        console.say(f"{who}: {text}" if len(answers) > 1 else text)
