"""How long chat rows take to become tokens: `python benchmarks/preparing.py [TOKENS] [REPEATS]`.

Arms take turns, each in a process of its own: the tokenizer's `encode_batch` alone over the rendered strings, the studio from the file on,
the studio a second time, and SFTTrainer's preparation where TRL is installed. Ratios are medians over the repeats. CPU seconds are of the
process and its children: on a machine that is busy otherwise they say more than the clock.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from lora_studio.core.control import TaskContext
from lora_studio.core.engine_import import import_engine
from lora_studio.core.paths import HOME_VARIABLE
from lora_studio.core.settings import DataSettings
from lora_studio.models.prepare import prepare
from lora_studio.models.sources import find_model

TOKENS_A_ROW = 237
BLOCK = 1000
ARMS = ("encode_batch", "studio", "studio again", "SFTTrainer")


def write_rows(path: Path, tokens: int) -> None:
    """Write chat rows of one to three turns, 20 to about 1,000 tokens, of prose and code that every Python comes with."""
    numbers = random.Random(0)
    words = [word for text in topics.values() for word in text.split(" ")]

    def said(most: int) -> str:
        start = numbers.randrange(len(words) - most)
        return " ".join(words[start : start + numbers.randint(4, most)]).strip() + f" {numbers.randint(0, 99999)}."

    with path.open("w", encoding="utf-8") as file:
        for _ in range(tokens // TOKENS_A_ROW):
            turns = [{"role": "system", "content": said(20)}] if numbers.random() < 0.3 else []
            for _turn in range(numbers.choice((1, 1, 1, 2, 3))):
                turns += [{"role": "user", "content": said(100)}, {"role": "assistant", "content": said(60)}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Took:
    """What an arm took: seconds, processor seconds, and the tokens it made."""

    seconds: float
    cpu: float
    tokens: int


class Clock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def took(self, tokens: int) -> Took:
        return Took(time.perf_counter() - self._began, cpu_seconds() - self._cpu, tokens)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its children that ended."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def encode_alone(rows: Path, tokenizer: Any, _model: str) -> Took:
    """Encode strings that were rendered before the clock starts."""
    turns = [json.loads(line)["messages"] for line in rows.open(encoding="utf-8")]
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in turns]
    clock = Clock()
    total = 0
    for start in range(0, len(texts), BLOCK):
        encodings = tokenizer.backend_tokenizer.encode_batch(texts[start : start + BLOCK], add_special_tokens=False)
        total += sum(map(len, encodings))
    return clock.took(total)


def studio(rows: Path, tokenizer: Any, _model: str) -> Took:
    """Prepare the file as a run does."""
    from lora_studio.data.prepare import prepare_data

    settings = DataSettings(train=(str(rows),), max_length=8192)
    clock = Clock()
    prepared = prepare_data(settings, tokenizer, 0)
    return clock.took(prepared.report.tokens.total)


def sft_trainer(rows: Path, tokenizer: Any, model: str) -> Took:
    """Prepare the file as SFTTrainer does when it is made, with a model too small to matter."""
    import datasets
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    datasets.disable_progress_bars()
    config = AutoConfig.from_pretrained(
        model, num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16
    )
    small = AutoModelForCausalLM.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(output_dir=folder, max_length=None, report_to=[], use_cpu=True, bf16=False)
        clock = Clock()
        data = datasets.load_dataset("json", data_files=str(rows), split="train", cache_dir=folder)
        trainer = SFTTrainer(model=small, args=settings, train_dataset=data, processing_class=tokenizer)
        took = clock.took(0)
        return replace(took, tokens=sum(len(ids) for ids in trainer.train_dataset["input_ids"]))


def run_arm(arm: str, rows: str, model: str) -> None:
    """Run one arm here and print what it took."""
    import_engine()  # as every part of the studio does
    from transformers import AutoTokenizer

    arms: dict[str, Callable[[Path, Any, str], Took]] = {
        "encode_batch": encode_alone,
        "studio": studio,
        "studio again": studio,
        "SFTTrainer": sft_trainer,
    }
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.backend_tokenizer.encode_batch(["warm up"] * 64)
    before = peak_bytes()
    took = arms[arm](Path(rows), tokenizer, model)
    print(json.dumps({**asdict(took), "peak": peak_bytes(), "before": before}))


def peak_bytes() -> int:
    """Return the most memory this process has held, in bytes; Linux' `getrusage` counts what the parent held as well."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(arm: str, rows: Path, model: str, home: Path) -> dict[str, Any] | None:
    """Run one arm in a process of its own; None where a part it needs is not installed."""
    environment = {**os.environ, HOME_VARIABLE: str(home), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--arm", arm, str(rows), model], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if "No module named 'trl'" in done.stderr:
            return None
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(tokens: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ[HOME_VARIABLE] = str(folder / "models")
        list(prepare(TaskContext(), "starter"))
        model = str(find_model("starter").path)
        rows = folder / "rows.jsonl"
        write_rows(rows, tokens)
        time.sleep(2.5)  # a file's time has to settle before its hash is remembered
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        for repeat in range(repeats):
            home = folder / f"home-{repeat}"
            for arm in ARMS:
                figures = measured(arm, rows, model, home)
                if figures is not None:
                    found[arm].append(figures)
        tell(found, repeats)


def tell(found: dict[str, list[dict[str, Any]]], repeats: int) -> None:
    """Print each arm's time, its ratio to `encode_batch` and its memory."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, {repeats} repeats, {found['encode_batch'][0]['tokens']:,} tokens")
    print(f"{'arm':14} {'seconds':>9} {'tokens/s':>10} {'ratio':>7} {'min':>6} {'max':>6} {'CPU s':>7} {'peak MB':>8} {'added MB':>9}")
    for arm, figures in found.items():
        if not figures:
            print(f"{arm:14} not installed")
            continue
        ratios = [own["seconds"] / base["seconds"] for own, base in zip(figures, found["encode_batch"])]
        seconds = statistics.median(own["seconds"] for own in figures)
        cpu = statistics.median(own["cpu"] for own in figures)
        peak, added = (
            statistics.median(value) / 1e6 for value in ([own["peak"] for own in figures], [own["peak"] - own["before"] for own in figures])
        )
        print(
            f"{arm:14} {seconds:9.3f} {figures[0]['tokens'] / seconds:10,.0f} {statistics.median(ratios):7.3f} {min(ratios):6.3f} "
            f"{max(ratios):6.3f} {cpu:7.2f} {peak:8,.0f} {added:9,.0f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        run_arm(*sys.argv[2:])
    else:
        arguments = [int(argument) for argument in sys.argv[1:]]
        main(*(arguments + [1_000_000, 5][len(arguments) :]))
