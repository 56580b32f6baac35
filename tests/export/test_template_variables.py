"""Values of the chat template's own variables: what is trained with them is sampled, chatted and exported with them, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.events import RunFinished
from lora_studio.core.runs import RunFolder
from lora_studio.data.prepare import prepare_data
from lora_studio.data.tokenizer import read_tokenizer
from lora_studio.inference import chat as chatting
from tests.export.adapters import run_export
from tests.train.helpers import all_events, new_run, run_config

STYLED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' ' + style if style is defined else '' }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ ' ' + style if style is defined else '' }}\n{% endif %}"
)
ASKED = "<|im_start|>user short\nWhere is it?<|im_end|>\n<|im_start|>assistant short\n"
TURN = [{"role": "user", "content": "Where is it?"}]


@pytest.fixture
def run(tiny_model: Callable[[str], Path], tmp_path: Path) -> RunFolder:
    """A trained run whose template writes a style behind each role."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"messages": [*TURN, {"role": "assistant", "content": f"In room {number}."}]}) + "\n" for number in range(6)),
        encoding="utf-8",
    )
    made = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("llama"),
            rows,
            {
                "data.chat_template": STYLED,
                "data.chat_template_kwargs": {"style": "short"},
                "training.max_steps": 2,
                "training.sample_rows": 1,
            },
        ),
    )
    assert isinstance(all_events(made)[-1], RunFinished)
    return made


def prompt_of(folder: Path, base: Path) -> str:
    """What plain transformers asks with an exported folder."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder if (folder / "tokenizer.json").exists() else base)
    if (folder / "chat_template.jinja").exists():
        tokenizer.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return str(tokenizer.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True))


def test_samples_chats_exports_and_cards_have_the_values_of_the_run(
    run: RunFolder,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config: RunConfig = run.config
    base = tiny_model("llama")
    tokenizer = read_tokenizer(str(base))
    (sample,) = prepare_data(config.data, tokenizer, config.training.seed).samples(1)
    assert tokenizer.decode(sample.prompt_ids) == ASKED
    for kind in ("adapter", "merged"):
        run_export(source=str(run.path), kind=kind, to=str(tmp_path / kind), **({"dtype": "float32"} if kind == "merged" else {}))
        assert prompt_of(tmp_path / kind, base) == ASKED
        assert "`style` = `short`" in (tmp_path / kind / "README.md").read_text(encoding="utf-8")
    asked: list[str] = []

    def answer(_model: Any, tokens: Any, prompts: list[list[int]], *_more: Any) -> list[str]:
        asked.extend(map(tokens.decode, prompts))
        return [""]

    monkeypatch.setattr(chatting, "answer", answer)
    for source in (run.path, tmp_path / "adapter"):
        list(chatting.chat(TaskContext(), str(source), "Where is it?"))
    assert asked == [ASKED, ASKED]


def test_a_gguf_and_its_modelfile_are_asked_with_the_values_of_the_run(run: RunFolder, tiny_model: Callable[[str], Path]) -> None:
    from lora_studio.export.gguf.export import _renderer  # pyright: ignore[reportPrivateUsage]
    from lora_studio.export.verify.tokenizer_files import tokenizer_files_of

    class ExportContext:
        tokenizer_files = tokenizer_files_of(tiny_model("llama"), run.adapter_path, run.config)

    render: Any = _renderer(ExportContext)  # type: ignore[arg-type]
    assert render(TURN) == ASKED
    assert "style = short unless told otherwise" in ExportContext.tokenizer_files.template_from
