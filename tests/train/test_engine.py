from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import (
    CheckpointSaved,
    Evaluation,
    Notice,
    Phase,
    RunEvent,
    RunFinished,
    RunStarted,
    Sample,
    Step,
)
from lora_studio.core.files import sha256_of
from lora_studio.core.runs import RunFolder
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.inference.score import held_out_logits
from lora_studio.train.engine import train
from tests.tiny import ARCHITECTURES
from tests.train.helpers import all_events, losses, new_run, run_config, targets, token_rows

TinyModel = Callable[[str], Path]


def of_kind(events: list[RunEvent], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_loss_falls_by_a_fifth_and_plain_peft_loads_the_adapter(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    architecture: str,
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model(architecture),
            chat_rows,
            {
                "adapter.target_modules": targets(architecture),
                "training.num_train_epochs": 6,
                "training.sample_rows": 0,
                "training.learning_rate": 1e-2,
                "training.compute_dtype": "float32",
                "adapter.r": 8,
                "adapter.lora_alpha": 16,
            },
        ),
    )
    context = TaskContext()
    events: list[RunEvent] = []
    trained_logits: list[torch.Tensor] = []
    for event in train(context, str(run.path)):
        events.append(event)
        if isinstance(event, RunFinished):  # the adapter is still on
            model = LoadedModel.of(context)._base
            assert model is not None
            trained_logits = [row.logits for row in held_out_logits(model, token_rows(3))]
    evaluations = of_kind(events, Evaluation)
    assert evaluations[-1].loss < 0.8 * evaluations[0].loss
    assert losses(events)[-1] < 0.8 * losses(events)[0]

    base = AutoModelForCausalLM.from_pretrained(tiny_model(architecture), dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, run.adapter_path)
    for row, expected in zip(held_out_logits(plain, token_rows(3)), trained_logits, strict=True):
        torch.testing.assert_close(row.logits, expected, rtol=1e-4, atol=1e-4)


def test_events_tell_the_whole_run(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    often = {"training.eval_steps": 3, "training.save_steps": 4, "training.save_total_limit": 2}
    config = run_config(tiny_model("llama"), chat_rows, often)
    run = new_run(tmp_path / "run", config)
    events = all_events(run)

    started = of_kind(events, RunStarted)[0]
    steps = of_kind(events, Step)
    assert [step.step for step in steps] == list(range(1, started.total_steps + 1))
    assert started.total_steps == 10
    assert started.train_rows + started.eval_rows == 24
    assert [event.step for event in of_kind(events, Evaluation)] == [0, 3, 6, 9, 10]
    assert [event.step for event in of_kind(events, CheckpointSaved)] == [4, 8, 10]
    assert [folder.name for folder in run.checkpoints] == ["step-000008", "step-000010"]
    assert [(event.label, event.row) for event in of_kind(events, Sample)] == [("before", 0), ("before", 1), ("after", 0), ("after", 1)]
    assert all(sample.prompt and json.loads(sample.reference) for sample in of_kind(events, Sample))
    assert {event.name for event in of_kind(events, Phase)} >= {"preparing", "loading", "training", "evaluating", "sampling", "saving"}
    assert isinstance(events[-1], RunFinished)
    best = min(of_kind(events, Evaluation)[1:], key=lambda evaluation: evaluation.loss)
    assert events[-1].result == {
        "adapter": str(run.adapter_path),
        "adapter_sha256": sha256_of(run.adapter_path / "adapter_model.safetensors"),
        "steps": 10,
        "eval_loss": of_kind(events, Evaluation)[-1].loss,
        "best_step": best.step,
        "best_loss": best.loss,
    }
    assert all(later.tokens > earlier.tokens and later.trained_tokens > earlier.trained_tokens for earlier, later in pairwise(steps))
    assert steps[-1].epoch == pytest.approx(2)
    assert steps[0].micro_batch_seconds <= steps[0].seconds
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["base"]["weight_fingerprint"]
    assert environment["device"]["type"] == "cpu"
    assert json.loads((run.path / "data.json").read_text())["train_rows"] == started.train_rows


@pytest.mark.parametrize(
    ("weights", "compute"),
    [
        ("float32", "bfloat16"),
        ("bfloat16", "auto"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float32", "float32"),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"adapter.use_dora": True}, {"training.gradient_checkpointing": "full"}])
def test_every_precision_evaluates_samples_and_finishes(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    weights: str,
    compute: str,
    changes: dict[str, object],
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("llama"),
            chat_rows,
            {"model.dtype": weights, "training.compute_dtype": compute, "training.max_steps": 2, "adapter.lora_dropout": 0.1, **changes},
        ),
    )
    events = all_events(run)
    assert isinstance(events[-1], RunFinished)
    assert [event.label for event in of_kind(events, Sample)] == ["before", "before", "after", "after"]
    assert [event.step for event in of_kind(events, Evaluation)] == [0, 2]


@pytest.mark.parametrize(("weights", "compute"), [("bfloat16", "float16"), ("float16", "bfloat16"), ("bfloat16", "float32")])
def test_half_precision_weights_are_not_computed_with_in_another_precision(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    weights: str,
    compute: str,
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model("gpt2"),
            chat_rows,
            {"adapter.target_modules": ("c_attn",), "model.dtype": weights, "training.compute_dtype": compute},
        ),
    )
    with pytest.raises(InputError, match=compute) as raised:
        all_events(run)
    assert raised.value.field == "training.compute_dtype"


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {"adapter.modules_to_save": ("norm", "lm_head")}),
        ("gpt2", {"adapter.bias": "all"}),
        ("gpt2", {"adapter.bias": "lora_only"}),
    ],
)
@pytest.mark.parametrize("weights", ["bfloat16", "float16"])
def test_what_trains_of_the_base_itself_moves_in_half_precision_too(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    architecture: str,
    changes: dict[str, object],
    weights: str,
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(
            tiny_model(architecture),
            chat_rows,
            {
                "adapter.target_modules": targets(architecture)[:1],
                "model.dtype": weights,
                "training.learning_rate": 2e-4,
                "training.num_train_epochs": 2,
                **changes,
            },
        ),
    )
    assert isinstance(all_events(run)[-1], RunFinished)
    saved = load_file(run.adapter_path / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(tiny_model(architecture), dtype=getattr(torch, weights)).state_dict()
    copies = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor for name, tensor in saved.items() if "lora_" not in name
    }
    assert copies
    for name, tensor in copies.items():
        assert tensor.dtype == torch.float32
        assert (tensor != base[name].float()).float().mean() > 0.9, name


def test_rows_beyond_learned_positions_are_refused(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    rows = tmp_path / "long.jsonl"
    rows.write_text(json.dumps({"text": "word " * 4000}) + "\n" + json.dumps({"text": "more " * 4000}) + "\n")
    changes = {"adapter.target_modules": ("c_attn",), "data.max_length": 4096}
    run = new_run(tmp_path / "run", run_config(tiny_model("gpt2"), rows, changes))
    with pytest.raises(InputError, match="positions for") as raised:
        all_events(run)
    assert raised.value.field == "data.max_length"


def test_a_damaged_base_model_is_told_before_the_first_step(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    model.model.norm.weight.data[0] = float("nan")
    shutil.copytree(tiny_model("llama"), folder)
    model.save_pretrained(folder)
    run = new_run(tmp_path / "run", run_config(folder, chat_rows, {"training.max_steps": 4}))
    with pytest.raises(StudioError, match="base model itself"):
        all_events(run)
    assert not run.adapter_path.exists()


def test_a_run_whose_steps_were_all_skipped_does_not_finish(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = new_run(
        tmp_path / "run",
        run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 3, "data.eval_fraction": 0, "training.sample_rows": 0}),
    )
    monkeypatch.setattr("lora_studio.kernels.head.frozen_head_loss", lambda hidden, _head, _targets: hidden.sum() * float("nan"))
    with pytest.raises(StudioError, match="None of the 3 steps"):
        all_events(run)
    assert not run.adapter_path.exists()


def test_the_adapter_names_its_base_model_and_nothing_is_pickled(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 2}))
    all_events(run)
    config = json.loads((run.adapter_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model("llama"))
    assert config["inference_mode"] is True
    assert {path.name for path in run.adapter_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.suffix for path in run.path.rglob("*") if path.is_file()} <= {".yaml", ".json", ".safetensors"}


@pytest.mark.parametrize("changes", [{}, {"adapter.bias": "all"}, {"adapter.modules_to_save": ("lm_head",)}, {"adapter.use_dora": True}])
def test_a_second_run_on_the_warm_base_equals_the_first(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    changes: dict[str, object],
) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 3, "adapter.lora_dropout": 0.1, **changes})
    context = TaskContext()
    first = all_events(new_run(tmp_path / "one", config), context=context)
    changed = bool(changes) and "adapter.use_dora" not in changes
    assert LoadedModel.of(context).loaded is not changed
    second = all_events(new_run(tmp_path / "two", config), context=context)
    assert losses(first) == losses(second)
    assert [event.loss for event in of_kind(first, Evaluation)] == [event.loss for event in of_kind(second, Evaluation)]


def test_a_run_goes_again_only_by_resuming(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, {"training.max_steps": 1}))
    all_events(run)
    with pytest.raises(InputError, match="trained already"):
        all_events(run)


def test_plain_text_trains_and_samples(tiny_model: TinyModel, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"text": f"The invoice number {number} shows the wrong address."}) for number in range(12)))
    events = all_events(
        new_run(
            tmp_path / "run",
            run_config(
                tiny_model("gpt2"),
                rows,
                {"adapter.target_modules": ("c_attn",), "training.num_train_epochs": 8, "training.learning_rate": 1e-2},
            ),
        )
    )
    assert losses(events)[-1] < losses(events)[0]
    assert all(sample.prompt and sample.reference for sample in of_kind(events, Sample))


def break_losses(context: TaskContext, from_call: int) -> None:
    """Have the warm base's head answer with NaN from its n-th call on."""
    calls = iter(range(1 << 30))
    base = LoadedModel.of(context)._base
    assert base is not None
    base.get_output_embeddings().register_forward_hook(
        lambda _head, _inputs, output: output * float("nan") if next(calls) >= from_call else output
    )


def test_a_loss_that_stays_not_a_number_ends_the_run_and_names_causes(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {"training.sample_rows": 0, "data.eval_fraction": 0.0, "training.save_steps": 2, "training.num_train_epochs": 4},
    )
    context = TaskContext()
    all_events(new_run(tmp_path / "warm", config.replace({"training.max_steps": 1})), context=context)
    break_losses(context, from_call=3)
    run = new_run(tmp_path / "run", config)
    events: list[RunEvent] = []
    with pytest.raises(StudioError, match="not a finite number in 5 steps") as caught:
        events.extend(train(context, str(run.path)))
    assert "learning_rate" in caught.value.hint


def test_a_skipped_step_is_told_and_the_run_goes_on(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"training.sample_rows": 0, "data.eval_fraction": 0.0, "training.max_steps": 4})
    context = TaskContext()
    all_events(new_run(tmp_path / "warm", config), context=context)
    base = LoadedModel.of(context)._base
    assert base is not None
    calls = iter(range(1 << 30))
    base.get_output_embeddings().register_forward_hook(lambda _head, _inputs, output: output * float("nan") if next(calls) == 1 else output)
    events = all_events(new_run(tmp_path / "run", config), context=context)
    assert [step.skipped for step in of_kind(events, Step)] == [False, True, False, False]
    assert [event.code for event in of_kind(events, Notice)] == ["step_skipped"]
    adapter = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    from safetensors.torch import load_file

    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(adapter).values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data.train": ("nowhere.jsonl",)}, "data.train"),
        ({"model.name_or_path": "/nowhere/at/all"}, "model.name_or_path"),
        ({"adapter.target_modules": ("no_such_module",)}, "adapter.target_modules"),
        ({"model.dtype": "bfloat16", "training.compute_dtype": "float32"}, "training.compute_dtype"),
    ],
)
def test_bad_input_names_its_field_and_leaves_nothing(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    changes: dict[str, object],
    field: str,
) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows, changes))
    with pytest.raises(InputError) as caught:
        all_events(run)
    assert caught.value.field == field
    assert not run.adapter_path.exists()
    assert not run.checkpoints


def test_a_stop_while_preparing_ends_without_a_checkpoint(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", run_config(tiny_model("llama"), chat_rows))
    context = TaskContext()
    context.control.stop()
    with pytest.raises(Cancelled):
        all_events(run, context=context)
    assert not run.checkpoints


def run_within(context: TaskContext, run: RunFolder, most_tokens: int) -> list[RunEvent]:
    """Train on a device that has memory for so many tokens at a time."""
    base = LoadedModel.of(context)._base
    assert base is not None

    def want(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if base.training and inputs[0].numel() > most_tokens:
            torch.empty(1 << 50)

    handle = base.get_input_embeddings().register_forward_pre_hook(want)
    try:
        return all_events(run, context=context)
    finally:
        handle.remove()


@pytest.mark.parametrize(("most_rows", "halved_to"), [(3, [4, 2]), (1, [4, 2, 1])])
def test_want_of_memory_halves_the_micro_batch_and_changes_no_step(
    tiny_model: TinyModel,
    chat_rows: Path,
    tmp_path: Path,
    most_rows: int,
    halved_to: list[int],
) -> None:
    config = run_config(
        tiny_model("llama"),
        chat_rows,
        {
            "training.sample_rows": 0,
            "training.max_steps": 3,
            "training.per_device_train_batch_size": 8,
            "adapter.lora_dropout": 0.0,
            "training.compute_dtype": "float32",
        },
    )
    context = TaskContext()
    enough = new_run(tmp_path / "whole", config)
    whole = of_kind(all_events(enough, context=context), Step)
    run = new_run(tmp_path / "run", config)
    longest = json.loads((enough.path / "data.json").read_text())["tokens"]["max"]
    events = run_within(context, run, most_rows * longest + 7)  # rows laid end to end are filled up to a multiple of 8
    pieces = of_kind(events, Step)
    assert [step.loss for step in pieces] == pytest.approx([step.loss for step in whole], rel=1e-4)
    assert pieces[0].loss == pytest.approx(whole[0].loss, rel=1e-6)
    notices = [event.message for event in of_kind(events, Notice) if event.code == "micro_batch_halved"]
    assert [int(re.findall(r"(\d+) at a time", message)[0]) for message in notices] == halved_to
    assert json.loads((run.checkpoints[-1] / "state.json").read_text())["micro_rows"] == halved_to[-1]


def test_where_not_one_row_fits_the_run_fails_with_what_would_help(tiny_model: TinyModel, chat_rows: Path, tmp_path: Path) -> None:
    config = run_config(tiny_model("llama"), chat_rows, {"training.sample_rows": 0, "training.max_steps": 3})
    context = TaskContext()
    all_events(new_run(tmp_path / "warm", config), context=context)
    with pytest.raises(StudioError, match="Out of memory on 1 row") as caught:
        run_within(context, new_run(tmp_path / "run", config), 0)
    assert re.search(r"max_length \d+: −[\d.]+ MB", caught.value.hint)
    assert re.search(r"quantization nf4: −[\d.]+ MB", caught.value.hint)
    assert len(of_kind(all_events(new_run(tmp_path / "again", config), context=context), Step)) == 3
