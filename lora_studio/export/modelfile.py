"""An Ollama `Modelfile` beside a GGUF file.

Ollama writes prompts by Go templates of its own; of chat templates in Jinja it recognizes some by their text. Where a model's template
gives exactly what one of the usual forms gives, the Go template of that form is written down; where not, the Modelfile says so.
Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Message = Mapping[str, str]
Render = Callable[[Sequence[Message]], "str | None"]
_PROBES: tuple[tuple[Message, ...], ...] = (
    ({"role": "system", "content": "Sys one."}, {"role": "user", "content": "Ask two?"}),
    ({"role": "system", "content": "Sys one."}, {"role": "user", "content": "Ask two?"}, {"role": "assistant", "content": "Say three."},
     {"role": "user", "content": "Ask four?"}),
)


@dataclass(frozen=True)
class _Form:
    """A usual way to write a chat.

    Attributes:
        turn: What a turn of a role and a text looks like.
        opening: What invites the assistant's turn.
        go: The same as Ollama's template.
        stops: What ends a turn.
    """

    turn: str
    opening: str
    go: str
    stops: tuple[str, ...]

    def rendered(self, messages: Sequence[Message]) -> str:
        """Write messages, ready for the assistant's answer."""
        return "".join(self.turn.format(**message) for message in messages) + self.opening


def _looped(form: str) -> str:
    return "{{- range .Messages }}" + form + "{{ end }}"


_FORMS = {
    "ChatML": _Form(
        "<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n",
        _looped("<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n") + "<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>")),
    "Llama 3": _Form(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n",
        _looped("<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>")
        + "<|start_header_id|>assistant<|end_header_id|>\n\n", ("<|start_header_id|>", "<|eot_id|>")),
    "Phi": _Form(
        "<|{role}|>\n{content}<|end|>\n", "<|assistant|>\n", _looped("<|{{ .Role }}|>\n{{ .Content }}<|end|>\n") + "<|assistant|>\n",
        ("<|end|>", "<|user|>", "<|assistant|>")),
}


def modelfile(file: str, render: Render, *, base: str = "", bos: str = "") -> str:
    """Write the Modelfile of a GGUF model, or of a GGUF adapter on a base.

    Args:
        file: Name of the GGUF file beside it.
        render: The model's own chat template: messages to a prompt, or None where it cannot write them.
        base: Of an adapter, what Ollama calls its base model; empty for a whole model.
        bos: What the template begins with where it writes the beginning token itself; Ollama writes that by itself.
    """
    lines = [f"FROM {base}", f"ADAPTER ./{file}"] if base else [f"FROM ./{file}"]
    form = None if base else _form_of(render, bos)
    if form is not None:
        lines += [f'TEMPLATE """{form.go}"""', *(f'PARAMETER stop "{stop}"' for stop in form.stops)]
        usual = _usual_system(form, render, bos)
        lines += [f'SYSTEM """{usual}"""'] if usual else []
    elif not base:
        lines += [
            "# The model's chat template is in the file, in Jinja. It is none of the forms that are written for Ollama here, so Ollama",
            "# goes by what it recognizes in it: look at its answers, and add TEMPLATE and PARAMETER stop lines where they are wrong.",
        ]
    return "\n".join(lines) + "\n"


def _form_of(render: Render, bos: str) -> _Form | None:
    """Give the usual form that a template writes on probing messages."""
    written = [render(messages) for messages in _PROBES]
    for form in _FORMS.values():
        expected = [form.rendered(messages) for messages in _PROBES]
        if all(found in (wanted, bos + wanted) for found, wanted in zip(written, expected, strict=True)):
            return form
    return None


def _usual_system(form: _Form, render: Render, bos: str) -> str:
    """Give what a template says to the model where nobody does; empty where that is nothing."""
    asked: Message = {"role": "user", "content": "Ask two?"}
    found = render([asked]) or ""
    before, _, after = form.turn.format(role="system", content="\0").partition("\0")
    start = found.find(before)
    end = found.find(after, start + len(before)) if start >= 0 else -1
    text = found[start + len(before) : end] if end >= 0 else ""
    wanted = form.rendered([{"role": "system", "content": text}, asked])
    return text if found in (wanted, bos + wanted) else ""
