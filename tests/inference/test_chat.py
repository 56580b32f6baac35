from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import RunFinished
from lora_studio.core.runs import RunFolder
from lora_studio.inference.adapters import find_adapter
from lora_studio.inference.chat import chat
from tests.train.helpers import all_events, new_run, run_config

TinyModel = Callable[[str], Path]


@pytest.fixture(scope="module")
def finished_run(tiny_model: TinyModel, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = new_run(
        tmp_path_factory.mktemp("runs") / "run",
        run_config(
            tiny_model("llama"),
            chat_rows,
            {"training.num_train_epochs": 4, "training.learning_rate": 2e-2, "training.save_steps": 10, "training.sample_rows": 0},
        ),
    )
    all_events(run)
    return run


def ask(source: str | Path, compare: bool = False, prompt: str = "Where is my parcel?") -> dict[str, str | None]:
    last = list(chat(TaskContext(), str(source), prompt, compare, max_new_tokens=12))[-1]
    assert isinstance(last, RunFinished)
    return last.result


def test_run_checkpoint_and_adapter_folder_answer_alike(finished_run: RunFolder) -> None:
    both = ask(finished_run.path, compare=True)
    assert both["base"] != both["adapter"]
    assert ask(finished_run.path) == {"base": None, "adapter": both["adapter"]}
    assert ask(finished_run.adapter_path) == ask(finished_run.checkpoints[-1]) == ask(finished_run.path)


def test_a_base_model_answers_alone(finished_run: RunFolder, tiny_model: TinyModel) -> None:
    assert ask(tiny_model("llama")) == {"base": ask(finished_run.path, compare=True)["base"], "adapter": None}


def test_a_stopped_run_answers_with_its_newest_checkpoint(finished_run: RunFolder, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("adapter"))
    found = find_adapter(str(tmp_path / "run"))
    assert found.adapter is not None
    assert found.adapter.name == finished_run.checkpoints[-1].name
    assert find_adapter(str(found.adapter)).run is not None


def test_a_stop_ends_an_answer(finished_run: RunFolder) -> None:
    context = TaskContext()
    events = chat(context, str(finished_run.path), "Hello", max_new_tokens=100)
    while getattr(next(events), "name", "") != "sampling":
        pass
    context.control.stop()
    with pytest.raises(Cancelled):
        list(events)


@pytest.mark.parametrize(
    ("source", "prompt", "said"),
    [
        ("run", "  ", "prompt is empty"),
        ("/no/such/folder", "Hello", "no folder"),
        ("untrained", "Hello", "no adapter yet"),
        ("nameless", "Hello", "names no base model"),
        ("malformed", "Hello", "Cannot read"),
    ],
)
def test_a_bad_source_is_named(finished_run: RunFolder, tmp_path: Path, source: str, prompt: str, said: str) -> None:
    folder = tmp_path / source
    if source == "untrained":
        new_run(folder, finished_run.config)
    elif source in {"nameless", "malformed"}:
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8}) if source == "nameless" else "{")
    name = {"run": str(finished_run.path), "/no/such/folder": source}.get(source, str(folder))
    with pytest.raises(InputError, match=said):
        ask(name, prompt=prompt)
