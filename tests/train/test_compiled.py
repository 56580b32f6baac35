"""Training with compiled layers: the same losses, told with its cost, and gone afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch._inductor.config

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice, RunEvent, Step
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.train.compiled import refuse_without_compiler
from lora_studio.train.interrupt import decoder_layers
from tests.tiny import save_tiny_model, write_chat_rows
from tests.train.helpers import all_events, losses, new_run, run_config

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")


@functools.cache
def can_compile() -> bool:
    try:
        refuse_without_compiler(CPU)
    except InputError:
        return False
    return True


@pytest.fixture
def compiler() -> None:
    if not can_compile():
        pytest.skip("there is no C++ compiler")


def events_of(folder: Path, model: Path, changes: Mapping[str, object], context: TaskContext | None = None) -> list[RunEvent]:
    rows = write_chat_rows(folder.with_suffix(".jsonl"))
    return all_events(
        new_run(folder, run_config(model, rows, {"training.max_steps": 8, "training.compute_dtype": "float32", **changes})), context=context
    )


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer: each layer is compiled by itself, which takes long."""
    return save_tiny_model(tmp_path_factory.mktemp("shallow") / "llama", "llama", num_hidden_layers=1)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_losses_and_are_gone_after_the_run(shallow: Path, tmp_path: Path, checkpointing: bool) -> None:
    changes = {"training.gradient_checkpointing": checkpointing, "training.train_sampling_strategy": "random"}
    plain = events_of(tmp_path / "plain", shallow, changes)
    context = TaskContext()
    compiled = events_of(tmp_path / "compiled", shallow, {**changes, "training.torch_compile": True}, context)

    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
    assert not any(isinstance(event, Notice) for event in plain)
    told = [place for place, event in enumerate(compiled) if isinstance(event, Notice) and event.code == "compiled"]
    assert 1 <= len(told) <= 2  # for several rows at once and for one: other lengths need no compiling
    assert isinstance(compiled[told[0] - 1], Step)
    base = LoadedModel.of(context)._base
    assert base is not None
    assert not any("forward" in vars(layer) for layer in decoder_layers(base))


def test_without_a_compiler_the_run_does_not_begin(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match="C\\+\\+ compiler") as caught:
        events_of(tmp_path / "run", tiny_model("llama"), {"training.torch_compile": True, "training.device": "cpu"})
    assert caught.value.field == "training.torch_compile"
