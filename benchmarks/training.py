"""How fast and in how much memory an adapter trains: `python -m benchmarks.training [STEPS] [REPEATS] [MODEL]`.

The studio, transformers' Trainer with PEFT and TRL's SFTTrainer train the same adapter on the same chat rows of 20 to about 1,000 tokens:
MODEL (the starter; on a graphics card also `1b` and `8b`, of random weights), r 8 on all attention matrices, every token trained, eight
rows a step. Peers run as they come and with their best flags (weights in the dtype they compute in, no checkpointing, rows of like
length together). Arms take turns, each in a process of its own; figures are medians. Losses are those of the last step: the rows come in
another order for each arm, so they are near each other and not equal.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.models import SHAPES, random_model, starter_in_a_home_of_its_own
from benchmarks.preparing import peak_bytes, write_rows
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.events import Step
from lora_studio.core.runs import RunFolder

ROWS_A_STEP, TOKENS_A_ROW, LONGEST = 8, 237, 1024
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
ARMS = ("studio", "Trainer", "Trainer, best flags", "SFTTrainer", "SFTTrainer, best flags")


def studio(model: str, rows: Path, steps: int, folder: Path) -> dict[str, float]:
    """Train with the studio's engine; the time is that of its steps."""
    from lora_studio.train.engine import train

    config = RunConfig().replace(
        {
            "model.name_or_path": model,
            "data.train": (str(rows),),
            "data.max_length": LONGEST,
            "data.train_on": "all",
            "data.eval_fraction": 0.0,
            "adapter.r": 8,
            "adapter.lora_alpha": 16,
            "adapter.target_modules": TARGETS,
            "adapter.lora_dropout": 0.0,
            "training.per_device_train_batch_size": ROWS_A_STEP,
            "training.gradient_accumulation_steps": 1,
            "training.max_steps": steps,
            "training.sample_rows": 0,
            "training.learning_rate": 2e-4,
            "training.logging_steps": 1,
        }
    )
    run = folder / "run"
    run.mkdir()
    write_config(run / "run.yaml", config)
    taken = [event for event in train(TaskContext(), str(RunFolder.open(run).path)) if isinstance(event, Step)]
    return {"tokens": taken[-1].tokens, "seconds": sum(step.seconds for step in taken), "loss": taken[-1].loss}


def peer(model: str, rows: Path, steps: int, folder: Path, *, sft: bool, best: bool) -> dict[str, float]:
    """Train with one of the peers; the time is that of its `train`, the tokens are counted without padding."""
    import datasets
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in rows.open(encoding="utf-8")]
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    flags: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": ROWS_A_STEP,
        "learning_rate": 2e-4,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
    }
    if best:
        flags |= {"bf16": True, "gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if best else torch.float32)
    seen = 0

    def counting(collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        def counted(features: list[Any]) -> Any:
            nonlocal seen
            seen += sum(len(feature["input_ids"]) for feature in features)
            return collate(features)

        return counted

    ids = [tokenizer(text, add_special_tokens=False, truncation=True, max_length=LONGEST)["input_ids"] for text in texts]
    data = datasets.Dataset.from_dict({"input_ids": ids})
    if sft:
        from trl import SFTConfig, SFTTrainer

        trainer: Any = SFTTrainer(model=base, args=SFTConfig(**flags), train_dataset=data, processing_class=tokenizer, peft_config=lora)
    else:
        trainer = Trainer(
            model=get_peft_model(base, lora),
            args=TrainingArguments(**flags),
            train_dataset=data,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
    trainer.data_collator = counting(trainer.data_collator)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"tokens": seen, "seconds": seconds, "loss": losses[-1]}


def run_arm(arm: str, model: str, rows: str, steps: str) -> None:
    """Run one arm here and print its figures."""
    import_engine()
    with tempfile.TemporaryDirectory() as folder:
        if arm == "studio":
            found = studio(model, Path(rows), int(steps), Path(folder))
        else:
            found = peer(model, Path(rows), int(steps), Path(folder), sft=arm.startswith("SFT"), best="best" in arm)
    print(json.dumps({**found, "peak": peak_bytes()}))


def main(steps: int, repeats: int, shape: str) -> None:
    with starter_in_a_home_of_its_own() as (starter, folder):
        model, rows = str(starter if shape == "starter" else random_model(shape, starter, folder / shape)), folder / "rows.jsonl"
        write_rows(rows, steps * ROWS_A_STEP * TOKENS_A_ROW)
        found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for _ in range(repeats):
            for arm in ARMS:
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.training", "--arm", arm, model, str(rows), str(steps)],
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )
                if done.returncode == 0:
                    found[arm].append(json.loads(done.stdout.strip().splitlines()[-1]))
                elif "No module named 'trl'" not in done.stderr:
                    raise SystemExit(done.stderr[-3000:])
        print(shape, end=": ")
        tell(found, steps, repeats)


def tell(found: dict[str, list[dict[str, float]]], steps: int, repeats: int) -> None:
    """Print each arm's speed and memory, and how many times the studio is as fast."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, {repeats} repeats of {steps} steps of {ROWS_A_STEP} rows")
    print(f"{'arm':24} {'tokens/s':>9} {'studio ÷':>9} {'min':>6} {'max':>6} {'peak MB':>8} {'studio ÷':>9} {'loss':>7}")
    for arm, figures in found.items():
        if not figures:
            print(f"{arm:24} not installed")
            continue
        speeds, ours = ([one["tokens"] / one["seconds"] for one in arms] for arms in (figures, found["studio"]))
        ratios = [own / other for own, other in zip(ours, speeds)]
        peak, own_peak = (statistics.median(one["peak"] for one in arms) for arms in (figures, found["studio"]))
        print(
            f"{arm:24} {statistics.median(speeds):9.0f} {statistics.median(ratios):9.2f} {min(ratios):6.2f} {max(ratios):6.2f} "
            f"{peak / 1e6:8.0f} {own_peak / peak:9.2f} {statistics.median(one['loss'] for one in figures):7.3f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        run_arm(*sys.argv[2:])
    else:
        shape = sys.argv.pop() if sys.argv[-1] in ("starter", *SHAPES) else "starter"
        given = [int(argument) for argument in sys.argv[1:]]
        main(*(given + [8, 5][len(given) :]), shape)
