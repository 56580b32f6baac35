"""Runs on bases that are quantized in their own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lora_studio.core.config import RunConfig
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import RunFinished, RunStarted, Step
from lora_studio.inference.chat import chat
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import inspect_model
from lora_studio.models.load import load_model
from lora_studio.planning.activations import Workload
from lora_studio.planning.plan import Plan, make_plan
from lora_studio.planning.suggestions import cures
from lora_studio.train.fitting import costs_of
from tests.models.packed_folders import save_bitsandbytes, save_gpt_oss, save_packed_model, tell
from tests.models.quantized import held
from tests.tiny import save_tiny_model
from tests.train.helpers import all_events, new_run, run_config

pytestmark = pytest.mark.filterwarnings("ignore")
KINDS: dict[str, Callable[[Path], Any]] = {
    "nf4": lambda folder: save_bitsandbytes(folder, "nf4"),
    "int8": lambda folder: save_bitsandbytes(folder, "int8"),
    "awq": lambda folder: save_packed_model(folder, "awq"),
    "mxfp4": save_gpt_oss,
}


def plan_of(config: RunConfig, folder: Path) -> Plan:
    return make_plan(config, read_facts(folder), inspect_model(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_on_what_the_plan_counts_and_chat_asks_it(kind: str, chat_rows: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    KINDS[kind](base)
    config = run_config(
        base,
        chat_rows,
        {
            "adapter.target_modules": ("q_proj", "o_proj"),
            "training.learning_rate": 2e-2,
            "training.max_steps": 8,
            "training.sample_rows": 0,
        },
    )
    plan = plan_of(config, base)
    assert [finding.level for finding in plan.findings if finding.code.startswith("quant")] == ["note"]
    run = new_run(tmp_path / "run", config)
    events = all_events(run)
    assert isinstance(events[-1], RunFinished)
    started = next(event for event in events if isinstance(event, RunStarted))
    assert (started.trainable_parameters, started.all_parameters) == (plan.trainable_parameters, plan.all_parameters)
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert losses[-1] < losses[0] - 0.1
    answered = list(chat(TaskContext(), str(run.path), "Where is it?", compare=True, max_new_tokens=2))[-1]
    assert isinstance(answered, RunFinished)


def test_counts_are_those_of_peft_on_a_model_that_transformers_loaded(tmp_path: Path, chat_rows: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    save_bitsandbytes(base, "nf4")
    plan = plan_of(run_config(base, chat_rows, {"adapter.target_modules": "all-linear"}), base)
    theirs: PeftModel = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=run_config(base, chat_rows).adapter.r, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    assert (plan.trainable_parameters, plan.all_parameters) == theirs.get_nb_trainable_parameters()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model.quantization": "nf4"}, "model.quantization"),
        ({"adapter.modules_to_save": ("down_proj",)}, "adapter.modules_to_save"),
        ({"training.num_processes": 2, "training.distributed_type": "fsdp2"}, "training.distributed_type"),
    ],
)
def test_what_packed_weights_do_not_allow_is_planned_as_an_error(
    changes: dict[str, object],
    field: str,
    chat_rows: Path,
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    save_bitsandbytes(base, "nf4")
    errors = [finding for finding in plan_of(run_config(base, chat_rows, changes), base).findings if finding.level == "error"]
    assert [error.field for error in errors] == [field]


def test_weights_that_are_not_read_here_end_a_run_before_data_and_model_with_what_the_plan_said(chat_rows: Path, tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "tiny-4bit")
    save_tiny_model(tmp_path / "tiny")
    tell(folder, {"quant_method": "hqq"})
    config = run_config(folder, chat_rows)
    planned = next(finding for finding in plan_of(config, folder).findings if finding.level == "error")
    assert planned.hint == f"Choose the model in full precision, {tmp_path / 'tiny'}."
    with pytest.raises(InputError) as caught:
        all_events(new_run(tmp_path / "run", config))
    assert (caught.value.message, caught.value.hint) == (planned.message, planned.hint)


def test_where_memory_is_short_four_bits_are_offered_to_what_is_unpacked_alone(chat_rows: Path, tmp_path: Path) -> None:
    save_packed_model(tmp_path / "fp8", "fp8")
    save_bitsandbytes(tmp_path / "nf4", "nf4")
    offered = {}
    for kind in ("fp8", "nf4"):
        costs = costs_of(run_config(tmp_path / kind, chat_rows), tmp_path / kind)
        small = replace(costs, device=replace(costs.device, capacity_bytes=1))
        offered[kind] = any("model.quantization" in cure.changes for cure in cures(small, Workload(4, 64, 128)))
    assert offered == {"fp8": True, "nf4": False}


def test_the_adapter_names_the_quantized_base(chat_rows: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_packed_model(base, "fp8")
    run = new_run(tmp_path / "run", run_config(base, chat_rows, {"training.max_steps": 1, "training.sample_rows": 0}))
    all_events(run)
    assert json.loads((run.adapter_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert not held(load_model(base, torch.float32, torch.device("cpu")))
