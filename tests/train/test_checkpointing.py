from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_studio.core.control import TaskContext
from lora_studio.core.events import Notice, RunEvent
from lora_studio.core.runs import RunFolder
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.planning.activations import Workload
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.device import Device
from lora_studio.train.checkpointing import checkpointed
from lora_studio.train.fitting import choose_checkpointing, costs_of
from lora_studio.train.interrupt import decoder_layers
from tests.tiny import save_tiny_model
from tests.train.helpers import all_events, losses, new_run, run_config

TinyModel = Callable[[str], Path]
DEGREES = [
    {"training.gradient_checkpointing": "full"},
    {"training.gradient_checkpointing": "layers"},
    {"training.gradient_checkpointing": "layers", "training.gradient_checkpointing_every": 3},
]
PACKED = {"data.packing": True, "data.max_length": 192}


def adapter_of(run: RunFolder) -> bytes:
    return (run.adapter_path / "adapter_model.safetensors").read_bytes()


def notices(events: Sequence[RunEvent]) -> list[Notice]:
    return [event for event in events if isinstance(event, Notice) and event.code == "checkpointing_taken"]


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=5)


@pytest.mark.parametrize("changes", [{}, PACKED, {"model.dtype": "float32", "training.compute_dtype": "bfloat16"}])
def test_layers_computed_again_give_the_same_losses_and_adapter_bit_for_bit(
    deep_model: Path,
    chat_rows: Path,
    tmp_path: Path,
    changes: dict[str, object],
) -> None:
    usual = {"training.max_steps": 4, "adapter.lora_dropout": 0.2, "training.gradient_checkpointing": "off", "training.sample_rows": 0}
    plain = run_config(deep_model, chat_rows, {**usual, **changes})
    context = TaskContext()
    first = new_run(tmp_path / "plain", plain)
    wanted = losses(all_events(first, context=context))
    for number, degree in enumerate(DEGREES):
        run = new_run(tmp_path / f"again-{number}", plain.replace(degree))
        assert losses(all_events(run, context=context)) == wanted
        assert adapter_of(run) == adapter_of(first)


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "phi3", "gpt2", "gpt_neox", "qwen3_moe"])
def test_every_family_takes_it(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path, architecture: str) -> None:
    config = run_config(
        tiny_model(architecture),
        chat_rows,
        {
            "training.max_steps": 2,
            "adapter.target_modules": "all-linear",
            "training.sample_rows": 0,
            "training.gradient_checkpointing": "off",
        },
    )
    context = TaskContext()
    plain, again = (
        losses(all_events(new_run(tmp_path / name, config.replace({"training.gradient_checkpointing": name})), context=context))
        for name in ("off", "full")
    )
    assert again == plain


def test_the_layers_counted_from_the_end_are_computed_twice_and_the_model_is_as_it_was_afterwards() -> None:
    calls: list[int] = []

    class Layer(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number, self.inner = number, nn.Linear(3, 3)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            calls.append(self.number)
            return torch.tanh(self.inner(hidden))

    model = nn.Sequential(nn.ModuleList([Layer(number) for number in range(7)]))
    layers = decoder_layers(model)

    def step() -> None:
        hidden = torch.ones(1, 3)
        for layer in layers:
            hidden = layer(hidden)
        hidden.sum().backward()

    with checkpointed(model, Checkpointing(3)):
        step()
        assert calls == [0, 1, 2, 3, 4, 5, 6, 4, 1]
        calls.clear()
        model.eval()
        step()  # nobody trains: nothing is computed again
        assert calls == list(range(7))
    assert all("forward" not in vars(layer) for layer in layers)


def test_the_warm_base_is_free_of_it_after_the_run(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    context = TaskContext()
    config = run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 1, "training.gradient_checkpointing": "full"})
    all_events(new_run(tmp_path / "run", config), context=context)
    base = LoadedModel.of(context)._base
    assert base is not None
    assert all("forward" not in vars(layer) for layer in decoder_layers(base))


@pytest.mark.parametrize(("capacity", "taken"), [(1 << 40, "off"), (1, "full")])
def test_auto_takes_the_least_that_fits_and_says_what(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capacity: int,
    taken: str,
) -> None:
    device = Device("cpu", "", capacity, quick_bfloat16=False)
    monkeypatch.setattr("lora_studio.train.fitting.find_device", lambda _wanted: device)
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 1}))
    told = notices(all_events(run))
    assert json.loads((run.path / "environment.json").read_text())["gradient_checkpointing"] == taken
    assert [notice.level for notice in told] == (["warning"] if taken == "full" else [])


def test_auto_tells_of_the_middle_way_with_its_price(deep_model: Path, chat_rows: Path) -> None:
    costs = costs_of(run_config(deep_model, chat_rows), deep_model)
    workload = Workload(64, 2048, 1000)
    two = costs.under({"training.gradient_checkpointing": "layers"}).memory(workload).peak_bytes
    found, told = choose_checkpointing(replace(costs, device=replace(costs.device, capacity_bytes=two)), workload)
    assert found == Checkpointing(2)
    assert told is not None
    assert "takes one layer in 2, the least that fits: −" in told.message
    assert "slower" in told.message
