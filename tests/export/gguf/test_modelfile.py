"""An Ollama Modelfile writes chats as the model's own template does, or says that it does not.

The Go templates expected here were run in Go's `text/template` over the same messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jinja2
import pytest

from lora_studio.export.gguf.modelfile import OllamaMessage, modelfile

_SPLIT = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\\n\\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}"
)
GEMMA_3 = _SPLIT + (
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' + (system if loop.first else '')"
    " + message.content | trim + '<end_of_turn>\\n' }}{% endfor %}<start_of_turn>model\n"
)
GEMMA_2 = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + GEMMA_3
MISTRAL_3 = _SPLIT + (
    "{% if message.role == 'user' %}{{ '[INST] ' + (system if loop.last else '') + message.content + '[/INST]' }}"
    "{% else %}{{ ' ' + message.content | trim + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_2 = _SPLIT + (
    "{% if message.role == 'user' %}{{ ' [INST] ' + (system if loop.first else '') + message.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
OF_ITS_OWN = "{% for message in messages %}{{ message.role | upper }}: {{ message.content }}\n{% endfor %}ASSISTANT:"


def renderer(template: str, bos: str = "<s>") -> Callable[[Sequence[OllamaMessage]], str | None]:
    """Render as transformers does; None where the template refuses."""

    def refuse(text: str) -> None:
        raise jinja2.TemplateError(text)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)

    def render(messages: Sequence[OllamaMessage]) -> str | None:
        try:
            return environment.from_string(template).render(messages=messages, bos_token=bos, eos_token="</s>", raise_exception=refuse)
        except jinja2.TemplateError:
            return None

    return render


@pytest.mark.parametrize(
    ("template", "go"),
    [
        (
            GEMMA_3,
            '{{- $system := .System }}{{- range .Messages }}{{ if eq .Role "user" }}<start_of_turn>user\n{{ if $system }}{{ $system }}'
            '\n\n{{ $system = "" }}{{ end }}{{ .Content }}<end_of_turn>\n{{ else if eq .Role "assistant" }}<start_of_turn>model\n'
            "{{ .Content }}<end_of_turn>\n{{ end }}{{ end }}<start_of_turn>model\n",
        ),
        (
            MISTRAL_3,
            '{{- range $i, $_ := .Messages }}{{ if eq .Role "user" }}[INST] {{ if and $.System (eq (len (slice $.Messages $i)) 1) }}'
            '{{ $.System }}\n\n{{ end }}{{ .Content }}[/INST]{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}',
        ),
        (
            MISTRAL_2,
            '{{- $system := .System }}{{- range .Messages }}{{ if eq .Role "user" }} [INST] {{ if $system }}{{ $system }}\n\n'
            '{{ $system = "" }}{{ end }}{{ .Content }} [/INST]{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}',
        ),
    ],
)
def test_usual_forms_are_written_as_ollamas_template(template: str, go: str) -> None:
    written = modelfile("model.gguf", renderer(template), bos="<s>")
    assert written.startswith(f'FROM ./model.gguf\nTEMPLATE """{go}"""\nPARAMETER stop ')
    assert "SYSTEM" not in written


def test_a_template_that_takes_no_system_is_known_by_its_other_turns() -> None:
    assert modelfile("a.gguf", renderer(GEMMA_2), bos="<s>") == modelfile("a.gguf", renderer(GEMMA_3), bos="<s>")


@pytest.mark.parametrize("template", [OF_ITS_OWN, GEMMA_3.replace("'model'", "'helper'"), MISTRAL_3.replace("'[/INST]'", "' [/INST]'")])
def test_a_form_of_its_own_is_not_taken_for_a_usual_one(template: str) -> None:
    written = modelfile("model.gguf", renderer(template), bos="<s>")
    assert 'TEMPLATE """' not in written
    assert "none of the forms" in written


def test_an_adapters_modelfile_names_its_base_and_leaves_the_template_to_it() -> None:
    written = modelfile("lora.gguf", renderer(GEMMA_3), base="BASE_MODEL")
    assert written == "FROM BASE_MODEL\nADAPTER ./lora.gguf\n"
