from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from lora_studio.core.config_files import read_config, write_config
from lora_studio.core.errors import InputError
from lora_studio.core.events import Evaluation, Notice, RunEvent
from lora_studio.core.runs import RunFolder
from tests.train.helpers import all_events, new_run, run_config

TinyModel = Callable[[str], Path]
QUIET = {"training.sample_rows": 0, "training.max_steps": 4, "training.compute_dtype": "float32", "model.dtype": "float32"}


@pytest.fixture(scope="module")
def first(tiny_model: TinyModel, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run to begin from: r 4 on q_proj and v_proj, one module with an alpha of its own."""
    run = new_run(
        tmp_path_factory.mktemp("first") / "run",
        run_config(tiny_model("llama"), chat_rows, {**QUIET, "adapter.alpha_pattern": {"layers.0.self_attn.q_proj": 20}}),
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
    from transformers import AutoModelForCausalLM

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
