"""An Ollama `Modelfile` beside a GGUF file.

Ollama writes prompts by Go templates of its own; of chat templates in Jinja it recognizes some by their text. Where a model's template
gives exactly what one of the usual forms gives, the Go template of that form is written down; where not, the Modelfile says so.
Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

OllamaMessage = Mapping[str, str]
Render = Callable[[Sequence[OllamaMessage]], "str | None"]
_SYSTEM: OllamaMessage = {"role": "system", "content": "Sys one."}
_PROBES: tuple[tuple[OllamaMessage, ...], ...] = (
    ({"role": "user", "content": "Ask two?"},),
    ({"role": "user", "content": "Ask two?"}, {"role": "assistant", "content": "Say three."}, {"role": "user", "content": "Ask four?"}),
)


@dataclass(frozen=True)
class _Form:
    """A usual way to write a chat.

    Attributes:
        turns: What a turn looks like, by its role, with {} for its text. Without one for `system`, that text goes before a user's.
        opening: What invites the assistant's turn.
        stops: What ends a turn.
        alike: The turn of any role, where they differ by its name alone.
        system_last: Whether the system's text goes before the last user's text, not the first.
    """

    turns: Mapping[str, str]
    opening: str
    stops: tuple[str, ...]
    alike: str = ""
    system_last: bool = False

    @classmethod
    def of_roles(cls, turn: str, opening: str, stops: tuple[str, ...]) -> _Form:
        """Return a form in which a turn names its role; `turn` has {role} and {content}."""
        turns = {role: turn.format(role=role, content="{}") for role in ("system", "user", "assistant")}
        return cls(turns, opening, stops, alike=turn)

    def rendered(self, messages: Sequence[OllamaMessage]) -> str:
        """Write messages, ready for the assistant's answer."""
        system = "" if "system" in self.turns else "".join(f"{one['content']}\n\n" for one in messages if one["role"] == "system")
        users = [number for number, message in enumerate(messages) if message["role"] == "user"]
        holder = users[-1 if self.system_last else 0]
        written = [
            self.turns[message["role"]].format((system if number == holder else "") + message["content"])
            for number, message in enumerate(messages)
            if message["role"] in self.turns
        ]
        return "".join(written) + self.opening

    @property
    def go(self) -> str:
        """The same as Ollama's template. Source: https://github.com/ollama/ollama/blob/main/docs/template.md."""
        if self.alike:
            return "{{- range .Messages }}" + self.alike.format(role="{{ .Role }}", content="{{ .Content }}") + "{{ end }}" + self.opening
        held = '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}'
        begin = "{{- $system := .System }}{{- range .Messages }}"
        if self.system_last:
            held = "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}\n\n{{ end }}"
            begin = "{{- range $i, $_ := .Messages }}"
        user = self.turns["user"].format(held + "{{ .Content }}")
        assistant = self.turns["assistant"].format("{{ .Content }}")
        return (
            f'{begin}{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}'
            + self.opening
        )


_FORMS = {
    "ChatML": _Form.of_roles("<|im_start|>{role}\n{content}<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>")),
    "Llama 3": _Form.of_roles(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|eot_id|>"),
    ),
    "Phi": _Form.of_roles("<|{role}|>\n{content}<|end|>\n", "<|assistant|>\n", ("<|end|>", "<|user|>", "<|assistant|>")),
    "Gemma": _Form(
        {"user": "<start_of_turn>user\n{}<end_of_turn>\n", "assistant": "<start_of_turn>model\n{}<end_of_turn>\n"},
        "<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "Mistral 0.2": _Form({"user": " [INST] {} [/INST]", "assistant": " {}</s>"}, "", ("[INST]", "[/INST]")),
    "Mistral 0.3": _Form({"user": "[INST] {}[/INST]", "assistant": " {}</s>"}, "", ("[INST]", "[/INST]"), system_last=True),
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
    """Return the usual form that a template writes on probing messages: with a system's text where it takes one, else without."""
    probes = [(_SYSTEM, *messages) for messages in _PROBES]
    written = [render(messages) for messages in probes]
    if written == [None] * len(probes):
        probes = list(_PROBES)
        written = [render(messages) for messages in probes]
    for form in _FORMS.values():
        expected = [form.rendered(messages) for messages in probes]
        if all(found in (wanted, bos + wanted) for found, wanted in zip(written, expected, strict=True)):
            return form
    return None


def _usual_system(form: _Form, render: Render, bos: str) -> str:
    """Return what a template says to the model where nobody does; empty where that is nothing."""
    if "system" not in form.turns:
        return ""
    (asked,) = _PROBES[0]
    found = render([asked]) or ""
    before, _, after = form.turns["system"].partition("{}")
    start = found.find(before)
    end = found.find(after, start + len(before)) if start >= 0 else -1
    text = found[start + len(before) : end] if end >= 0 else ""
    wanted = form.rendered([{"role": "system", "content": text}, asked])
    return text if found in (wanted, bos + wanted) else ""
