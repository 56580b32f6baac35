from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from lora_studio.core.config_files import read_config, write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Evaluation, Notice, Phase, RunEvent, Step
from lora_studio.core.runs import RunFolder
from lora_studio.core.targets import resolve
from lora_studio.inference.warm_start import NewAdapter, warm_start_findings
from lora_studio.models.inspect import inspect_model
from lora_studio.train.engine import train
from tests.export.adapters import logits, make_adapter, with_adapter
from tests.export.handmade import tensors_of, write_adapter
from tests.train.helpers import all_events, new_run, run_config

TinyModel = Callable[[str], Path]
QUIET = {"training.sample_rows": 0, "training.max_steps": 4, "training.compute_dtype": "float32", "model.dtype": "float32"}


@pytest.fixture(scope="module")
def first(tiny_model: TinyModel, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run to begin from: r 4 on q_proj and v_proj, one module with an alpha of its own."""
    run = new_run(
        tmp_path_factory.mktemp("first") / "run",
        run_config(
            tiny_model("llama"), chat_rows, {**QUIET, "training.save_steps": 2, "adapter.alpha_pattern": {"layers.0.self_attn.q_proj": 20}}
        ),
    )
    all_events(run)
    return run


def begin(tiny_model: TinyModel, rows: Path, path: Path, source: Path, changes: Mapping[str, object]) -> list[RunEvent]:
    return all_events(new_run(path, run_config(tiny_model("llama"), rows, {**QUIET, "adapter.warm_start": str(source), **changes})))


def evaluations(events: list[RunEvent]) -> list[float]:
    return [event.loss for event in events if isinstance(event, Evaluation)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter.r": 7, "adapter.lora_alpha": 3},
        {"adapter.use_rslora": True, "adapter.r": 16},
        {"adapter.target_modules": ("q_proj", "v_proj", "down_proj"), "adapter.rank_pattern": {"v_proj": 9}},
    ],
)
def test_a_run_begins_where_the_adapter_stood(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    first: RunFolder,
    changes: dict[str, object],
) -> None:
    events = begin(tiny_model, chat_rows, tmp_path / "again", first.path, changes)
    plain = begin(tiny_model, chat_rows, tmp_path / "plain", first.adapter_path, {})
    assert evaluations(events)[0] == pytest.approx(evaluations(plain)[0], rel=1e-5)
    cold = all_events(new_run(tmp_path / "cold", run_config(tiny_model("llama"), chat_rows, QUIET)))
    assert evaluations(events)[0] == pytest.approx(evaluations(cold)[-1], rel=0.1)
    assert evaluations(events)[0] < evaluations(cold)[0]
    notice = next(event for event in events if isinstance(event, Notice) and event.code == "warm_start")
    assert ("start from zero" in notice.hint) == ("adapter.target_modules" in changes)


def test_the_update_itself_is_taken_over_exactly(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path, first: RunFolder) -> None:
    from peft import PeftModel

    begin(
        tiny_model,
        chat_rows,
        tmp_path / "again",
        first.path,
        {"adapter.r": 8, "adapter.lora_alpha": 8, "training.learning_rate": 1e-30, "training.max_steps": 1},
    )
    updates = []
    for folder in (first.adapter_path, tmp_path / "again" / "adapter"):
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32), str(folder))
        updates.append({name: module.get_delta_weight("default") for name, module in model.named_modules() if hasattr(module, "lora_A")})
    assert updates[0].keys() == updates[1].keys()
    assert any(float(update.detach().abs().max()) > 1e-4 for update in updates[0].values())
    for name, update in updates[0].items():
        torch.testing.assert_close(updates[1][name], update, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"adapter.r": 2}, "adapter.r", "rank 4"),
        ({"adapter.target_modules": ("q_proj",)}, "adapter.warm_start", "v_proj"),
        ({"adapter.use_dora": True}, "adapter.use_dora", "use_dora"),
    ],
)
def test_what_would_be_lost_is_refused(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    first: RunFolder,
    changes: dict[str, object],
    field: str,
    words: str,
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        begin(tiny_model, chat_rows, tmp_path / "run", first.path, changes)
    assert refused.value.field == field


KINDS: dict[str, tuple[str, dict[str, Any], dict[str, object]]] = {
    "rslora": ("llama", {"target_modules": ["q_proj", "down_proj"], "use_rslora": True}, {"r": 7}),
    "patterns": ("llama", {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 2}, "alpha_pattern": {"0.+q_proj": 5}}, {}),
    "dora": ("llama", {"target_modules": ["q_proj"], "use_dora": True}, {"r": 6, "use_dora": True}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, {"r": 6, "lora_alpha": 3}),
    "head in full": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, {"modules_to_save": ("lm_head",)}),
    "biases": ("gpt2", {"target_modules": ["c_attn"], "bias": "all"}, {"bias": "all", "r": 5}),
    "experts": ("qwen3_moe", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}, {"r": 6, "use_rslora": True}),
    "one of two experts' parameters": (
        "qwen3_moe",
        {"target_parameters": ["mlp.experts.gate_up_proj"], "target_modules": []},
        {"target_parameters": ("mlp.experts.down_proj", "mlp.experts.gate_up_proj"), "target_modules": (), "r": 6},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_found_to_fit_is_taken_over_exactly_whatever_it_is(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    architecture, given, own = KINDS[kind]
    base = tiny_model(architecture)
    source = make_adapter(base, tmp_path / "given", **given, fan_in_fan_out=architecture == "gpt2")
    listed = {"target_modules": tuple(given["target_modules"]), "target_parameters": tuple(given.get("target_parameters", ())), **own}
    still = {"training.learning_rate": 1e-30, "training.max_steps": 1, "training.weight_decay": 0.0, "adapter.warm_start": str(source)}
    changes = {f"adapter.{key}": value for key, value in listed.items()}
    all_events(new_run(tmp_path / "run", run_config(base, chat_rows, {**QUIET, **changes, **still})))
    meant = logits(with_adapter(base, source))
    assert (meant - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2
    assert (logits(with_adapter(base, tmp_path / "run" / "adapter")) - meant).abs().max() <= 1e-5


@pytest.mark.parametrize("broken", ["rank", "new tokens", "other base", "changed"])
def test_plan_refuses_what_train_refuses_before_the_model_is_loaded(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    first: RunFolder,
    broken: str,
) -> None:
    source = shutil.copytree(first.checkpoints[-1], tmp_path / "given") if broken == "changed" else tmp_path / "given"
    if broken == "rank":
        write_adapter(source, tensors_of(16), r=16)
    elif broken == "other base":
        write_adapter(source, tensors_of(layers=3))
    elif broken == "new tokens":
        write_adapter(source, {**tensors_of(), "base_model.model.lm_head.weight": np.zeros((390, 32), dtype=np.float32)})
    else:
        with (source / "adapter_model.safetensors").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"else")
    config = run_config(tiny_model("llama"), chat_rows, {**QUIET, "adapter.warm_start": str(source)})
    tree = inspect_model(tiny_model("llama"))
    new = NewAdapter(config.adapter, tree, resolve(config.adapter, tree), tiny_model("llama"))
    (planned,) = (finding for finding in warm_start_findings(new) if finding.level == "error")
    seen: list[RunEvent] = []
    with pytest.raises(InputError) as refused:
        seen.extend(train(TaskContext(), str(new_run(tmp_path / "run", config).path)))
    assert (refused.value.message, refused.value.hint, refused.value.field) == (planned.message, planned.hint, planned.field)
    assert str(source) in planned.message
    assert not [event for event in seen if isinstance(event, Phase) and event.name in ("loading", "preparing")]


def test_a_run_that_has_checkpoints_goes_on_without_the_adapter_it_began_from(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
) -> None:
    source = write_adapter(tmp_path / "given")
    changes = {**QUIET, "adapter.warm_start": str(source), "training.save_steps": 2}
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, changes))
    task = train(TaskContext(), str(run.path))
    next(event for event in task if isinstance(event, Step) and event.step == 3)
    task.close()
    shutil.rmtree(source)
    assert [event.step for event in all_events(run, resume=True) if isinstance(event, Step)] == [3, 4]


def test_another_models_adapter_and_no_adapter_are_refused(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    first: RunFolder,
) -> None:
    config = run_config(
        tiny_model("gpt2"), chat_rows, {**QUIET, "adapter.target_modules": ("c_attn",), "adapter.warm_start": str(first.path)}
    )
    with pytest.raises(InputError, match="no targets here"):
        all_events(new_run(tmp_path / "other", config))
    with pytest.raises(InputError, match="holds no PEFT adapter"):
        begin(tiny_model, chat_rows, tmp_path / "none", tmp_path, {})


def test_a_run_resumed_before_its_first_checkpoint_begins_warm_again(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    first: RunFolder,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {**QUIET, "adapter.warm_start": str(first.path)}))
    whole = begin(tiny_model, chat_rows, tmp_path / "whole", first.path, {})
    assert evaluations(all_events(run, resume=True)) == evaluations(whole)


def test_a_relative_path_is_taken_from_the_configs_folder(tmp_path: Path, tiny_model: TinyModel, chat_rows: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"adapter.warm_start": "runs/first"})
    write_config(tmp_path / "run.yaml", config)
    assert read_config(tmp_path / "run.yaml").adapter.warm_start == str(tmp_path / "runs" / "first")
