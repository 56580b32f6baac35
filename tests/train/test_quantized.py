"""Runs on a base held in 4 or 8 bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import bnb
from transformers import AutoModelForCausalLM

from lora_studio.adapters.inject import inject, parameter_counts
from lora_studio.core.control import TaskContext
from lora_studio.core.counts import all_parameters, trainable_parameters
from lora_studio.core.errors import InputError
from lora_studio.core.events import Evaluation, RunFinished, Sample, Step
from lora_studio.core.settings import AdapterSettings
from lora_studio.core.targets import resolve
from lora_studio.export import task
from lora_studio.inference.chat import chat
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.head import SelectedHead, token_loss_sum
from lora_studio.models.inspect import inspect_model
from lora_studio.models.load import load_model
from lora_studio.planning.activations import Workload
from lora_studio.planning.suggestions import cures
from lora_studio.train.fitting import costs_of
from tests.models.quantized import held, unpacked
from tests.tiny import ARCHITECTURES
from tests.train.helpers import all_events, losses, new_run, run_config, targets, token_rows
from tests.train.test_resume import adapter_bytes, after_step, stop_at

TinyModel = Callable[[str], Path]
CPU = torch.device("cpu")
QUANTIZED = pytest.mark.parametrize("quantization", ["nf4", "int8"])


def digest(context: TaskContext) -> str:
    """Everything the warm base holds: its weights as packed, and their scales."""
    base = LoadedModel.of(context)._base
    assert base is not None
    found = hashlib.sha256()
    for name, parameter in base.named_parameters():
        state: Any = getattr(parameter, "quant_state", None)
        scales = [state.absmax, state.state2.absmax] if state else [parameter.SCB] if hasattr(parameter, "SCB") else []
        for part in (parameter.data, *scales):
            found.update(name.encode() + part.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    ("quantization", "weights", "compute"),
    [
        ("nf4", "float32", "float32"),
        ("nf4", "bfloat16", "auto"),
        ("nf4", "float32", "bfloat16"),
        ("nf4", "float16", "float16"),
        ("int8", "float32", "float32"),
        ("int8", "float32", "bfloat16"),
    ],
)
def test_it_learns_evaluates_and_samples_and_leaves_the_base_as_it_was(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    quantization: str,
    weights: str,
    compute: str,
) -> None:
    context = TaskContext()
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {
            "model.quantization": quantization,
            "model.dtype": weights,
            "training.compute_dtype": compute,
            "adapter.target_modules": "all-linear",
            "adapter.lora_dropout": 0.1,
            "training.learning_rate": 2e-2,
            "training.num_train_epochs": 2,
        },
    )
    first = new_run(tmp_path / "one", config)
    events = all_events(first, context=context)
    assert isinstance(events[-1], RunFinished)
    evaluations = [event.loss for event in events if isinstance(event, Evaluation)]
    assert evaluations[-1] < evaluations[0] - 0.2
    assert all(event.loss == event.loss and 0 < event.grad_norm < 1e3 for event in events if isinstance(event, Step))
    assert [event for event in events if isinstance(event, Sample)]
    before = digest(context)
    assert losses(all_events(new_run(tmp_path / "two", config), context=context)) == losses(events)
    assert digest(context) == before
    environment = json.loads((first.path / "environment.json").read_text())
    assert environment["base"]["quantization"] == quantization


@QUANTIZED
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_trains_the_modules_the_settings_say(tiny_model: TinyModel, architecture: str, quantization: str) -> None:
    folder = tiny_model(architecture)
    settings = AdapterSettings(r=4, target_modules=tuple(targets(architecture)))
    tree = inspect_model(folder)
    resolution = resolve(settings, tree)
    model = inject(load_model(folder, torch.float32, CPU, quantization), settings, 0)
    assert parameter_counts(model) == (trainable_parameters(settings, tree, resolution), all_parameters(settings, tree, resolution))
    kind = bnb.Linear4bit if quantization == "nf4" else bnb.Linear8bitLt
    assert len([module for module in model.modules() if isinstance(module, kind)]) == len(resolution.targets)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.train()
    rows = make_batch(token_rows(3))
    with SelectedHead(model) as head:
        assert head.bare(rows) or architecture == "gemma3"
        loss = head.loss_sum(rows)
        assert torch.allclose(loss, token_loss_sum(head.logits(rows), rows.targets), rtol=1e-5) or architecture == "gpt2"  # its own dropout
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) and bool(gradient.any()) for gradient in gradients)


@QUANTIZED
def test_a_gradient_is_that_of_the_same_weights_unquantized(tiny_model: TinyModel, quantization: str) -> None:
    """Every layer learns after an evaluation too: the unpacked base, trained as usual, gives the same."""
    settings = AdapterSettings(r=4, target_modules="all-linear")
    packed = inject(load_model(tiny_model("llama"), torch.float32, CPU, quantization), settings, 0)
    plain = inject(load_model(tiny_model("llama"), torch.float32, CPU), settings, 0)
    layers = dict(plain.named_modules())
    with torch.no_grad():
        for name, layer in held(packed).items():
            layers[name].weight.copy_(unpacked(layer))
        for model in (packed, plain):
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.05)
            model.eval()
            model(torch.arange(12)[None])
            model.train()
    rows = make_batch(token_rows(4))
    found: list[dict[str, torch.Tensor]] = []
    for model in (packed, plain):
        with SelectedHead(model) as head:
            head.loss_sum(rows).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-3, atol=1e-4), name


@QUANTIZED
@pytest.mark.parametrize(
    "changes", [{"training.gradient_checkpointing": "full"}, {"data.packing": True, "data.max_length": 192}, {"adapter.use_dora": True}]
)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    quantization: str,
    changes: dict[str, object],
) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {
            "model.quantization": quantization,
            "adapter.lora_dropout": 0.2,
            "training.per_device_train_batch_size": 2,
            "training.gradient_accumulation_steps": 2,
            "training.max_steps": 5,
            "training.sample_rows": 0,
            **changes,
        },
    )
    whole = new_run(tmp_path / "whole", config)
    wanted = losses(all_events(whole))
    cut = new_run(tmp_path / "cut", config)
    first = stop_at(cut, after_step(3))
    assert losses(first) + losses(all_events(cut, resume=True)) == wanted
    assert adapter_bytes(cut) == adapter_bytes(whole)


@QUANTIZED
def test_chat_asks_the_base_as_the_run_held_it(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path, quantization: str) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("llama"),
            chat_rows,
            {"model.quantization": quantization, "training.max_steps": 2, "training.save_steps": 1, "training.sample_rows": 0},
        ),
    )
    all_events(run)
    for source in (run.path, run.checkpoints[-1]):
        context = TaskContext()
        answered = list(chat(context, str(source), "Where is it?", compare=True, max_new_tokens=4))[-1]
        assert isinstance(answered, RunFinished)
        key = LoadedModel.of(context)._key
        assert key is not None
        assert quantization in key


def test_a_merge_goes_into_the_full_precision_base_and_says_what_the_adapter_was_trained_on(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("gpt2"),
            chat_rows,
            {"model.quantization": "nf4", "adapter.target_modules": ("c_attn", "c_fc"), "training.max_steps": 6, "training.sample_rows": 0},
        ),
    )
    all_events(run)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model("gpt2"))
    ids = torch.tensor([[5, 9, 120, 33, 7]])
    with torch.inference_mode():
        wanted = PeftModel.from_pretrained(plain, str(run.adapter_path)).eval()(ids).logits
    for kind in ("adapter", "merged"):
        dtype = "float32" if kind == "merged" else None
        last = list(task.export(TaskContext(), str(run.path), kind, str(tmp_path / kind), dtype))[-1]
        assert isinstance(last, RunFinished)
        assert last.result["base_quantization"] == "nf4"
        assert last.result["certificate"]["verdict"] == "exact"
        assert "trained on the base held in 4 bits (NF4)" in (tmp_path / kind / "README.md").read_text()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not hasattr(merged.config, "quantization_config")
    with torch.inference_mode():
        assert torch.allclose(merged.eval()(ids).logits, wanted, atol=1e-4)


def test_a_run_whose_settings_a_quantized_base_does_not_allow_is_refused_before_it_starts(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"model.quantization": "nf4", "adapter.modules_to_save": ("down_proj",)})
    with pytest.raises(InputError, match="cannot be trained in full") as caught:
        all_events(new_run(tmp_path / "run", config))
    assert caught.value.field == "adapter.modules_to_save"


def test_what_trains_of_the_base_itself_may_be_what_is_not_quantized(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    for number, changes in enumerate(({"adapter.modules_to_save": ("lm_head",)}, {"adapter.bias": "all"})):
        run = new_run(
            tmp_path / str(number),
            run_config(
                tiny_model("gpt2"),
                chat_rows,
                {
                    "model.quantization": "nf4",
                    "adapter.target_modules": ("c_attn",),
                    "training.max_steps": 2,
                    "training.sample_rows": 0,
                    **changes,
                },
            ),
        )
        assert isinstance(all_events(run)[-1], RunFinished)


def test_the_plan_counts_the_bits_and_offers_them_where_memory_is_short(tiny_model: TinyModel, chat_rows: Path) -> None:
    costs = costs_of(run_config(tiny_model("llama"), chat_rows), tiny_model("llama"))
    workload = Workload(4, 64, 128)
    whole, packed = (costs.under({"model.quantization": name}).memory(workload) for name in ("none", "nf4"))
    assert packed.parts["weights"] < whole.parts["weights"]
    small = replace(costs, device=replace(costs.device, capacity_bytes=1))
    offered = [cure for cure in cures(small, workload) if "model.quantization" in cure.changes]
    assert [cure.saved_bytes for cure in offered] == [whole.peak_bytes - packed.peak_bytes]
