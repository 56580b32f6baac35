"""How fast and in how much memory: goals 1 to 4, arms taking turns in one process over one base in bfloat16.

Every arm goes once through the same rows, so all see the same tokens; the time is from the first step's beginning to the last one's end.
Peers run as they come, the base in its checkpoint's dtype as transformers 5 loads it, and with the flags that are best on a card:
no checkpointing, bfloat16, rows of like length together, for SFTTrainer packed where the studio packs. An arm's first turn is its warm-up.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.bases import Shape, base_folder, random_weights, shape_of, write_texts
from benchmarks.gpu.call import Row, Setting
from benchmarks.gpu.common import HALF, SINGLE, peak_of, place
from benchmarks.gpu.timing import finished, seconds_of
from benchmarks.step_overhead import TARGETS, bare, studio
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.events import Phase, RunStarted, Step
from lora_studio.core.runs import RunFolder
from lora_studio.data.batching.micro_batches import cut_end_to_end
from lora_studio.data.token_rows import Rows
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.train import session
from lora_studio.train.engine import train
from lora_studio.train.micro_batcher import MicroBatcher
from lora_studio.train.precision import Precision
from lora_studio.train.utilization import peak_flops

_REPEATS = 5
_LEARNING_RATE = 2e-4
_RANK = 16
_FEW = {"training.sample_rows": 0, "data.eval_fraction": 0.0, "training.save_steps": 1_000_000, "training.logging_steps": 1}


@dataclass
class Arm:
    """A way to train, and what its turns took.

    Attributes:
        name: What it is called.
        turn: Trains once; gives seconds, loss and whatever else there is to tell.
        taken: Of each turn but the first.
        peaks: Bytes beyond the base, of each of these turns.
    """

    name: str
    turn: Callable[[], dict[str, float]]
    taken: list[dict[str, float]] = field(default_factory=list)
    peaks: list[dict[str, int]] = field(default_factory=list)

    def seconds(self) -> list[float]:
        """Return the seconds of each turn."""
        return [one["seconds"] for one in self.taken]


class Bench:
    """One base, one set of rows, and the ways to train on them."""

    def __init__(self, setting: Setting, name: str) -> None:
        self.setting = setting
        self.shape: Shape = shape_of(setting, name)
        self.device = place(setting)
        self.folder = base_folder(setting, self.shape)
        self.rows = write_texts(Path(setting.folder) / f"{self.shape.name}.jsonl", self.shape.rows * self.shape.steps, self.shape.longest)
        self._context = TaskContext()
        self._runs = itertools.count()
        self._ids: list[list[int]] = []
        self._peers_base: Any = None

    def config(self, **changes: object) -> RunConfig:
        """Return the settings of a run that goes once through the rows."""
        return RunConfig().replace(
            {
                **_FEW,
                "model.name_or_path": str(self.folder),
                "model.dtype": "bfloat16",
                "training.compute_dtype": "bfloat16",
                "data.train": (str(self.rows),),
                "data.max_length": self.shape.longest,
                "data.train_on": "all",
                "adapter.r": _RANK,
                "adapter.lora_alpha": 2 * _RANK,
                "adapter.lora_dropout": 0.0,
                "adapter.target_modules": TARGETS,
                "training.per_device_train_batch_size": self.shape.rows,
                "training.gradient_accumulation_steps": 1,
                "training.num_train_epochs": 1,
                "training.learning_rate": _LEARNING_RATE,
                "training.gradient_checkpointing": "off",
                "training.device": self.device.type,
                **changes,
            }
        )

    def train(self, config: RunConfig) -> dict[str, float]:
        """Train with the studio's engine."""
        folder = Path(self.setting.folder) / "speed" / f"{self.shape.name}-{next(self._runs)}-{time.monotonic_ns()}"
        folder.mkdir(parents=True)
        write_config(folder / "run.yaml", config)
        began = ended = peak = 0.0
        steps: list[Step] = []
        with random_weights():
            for event in train(self._context, str(RunFolder.open(folder).path)):
                if isinstance(event, Phase) and event.name == "training" and not began:
                    began = finished(self.device)
                elif isinstance(event, RunStarted):
                    peak = event.peak_flops or 0.0
                elif isinstance(event, Step):
                    steps.append(event)
                    ended = time.perf_counter()  # it was read from the device, so the device is there
        shares = [step.utilization for step in steps if step.utilization is not None]
        on_device = sum(step.seconds for step in steps)
        seconds = ended - began
        share = statistics.median(shares) if shares else 0.0
        last_half = steps[len(steps) // 2 :]
        late = statistics.median(step.tokens_per_second for step in last_half)
        warm_up = seconds - len(steps) * statistics.median(step.seconds for step in last_half)
        return {
            "seconds": seconds,
            "loss": steps[-1].loss,
            "tokens": steps[-1].tokens,
            "share": share,
            "late tokens/s": late,
            "share by the clock": share * on_device / seconds,
            "matrix peak": peak,
            "warm-up": warm_up,
        }

    @property
    def base(self) -> Any:
        """The base that all arms share, once the studio has loaded it."""
        return LoadedModel.of(self._context)._base

    def peers_base(self) -> Any:
        """Return a base of the peers' own, as the studio's is: they leave hooks and another forward pass on it."""
        if self._peers_base is None:
            from lora_studio.models import load

            with random_weights():
                self._peers_base = load.load_model(self.folder, HALF, self.device)
        return self._peers_base

    def ids(self) -> list[list[int]]:
        """Return the rows' tokens, as the studio makes them."""
        if not self._ids:
            from lora_studio.data.prepare import prepare_data
            from lora_studio.models.load import load_tokenizer

            rows = prepare_data(self.config().data, load_tokenizer(self.folder), 0).train
            self._ids = [row.input_ids.tolist() for row in rows]
        return self._ids

    def peer(self, *, sft: bool, best: bool, packed: bool) -> dict[str, float]:
        """Train with Trainer and PEFT, or with SFTTrainer."""
        import datasets
        from peft import LoraConfig, get_peft_model
        from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        datasets.disable_progress_bars()
        clock: dict[str, float] = {}
        device = self.device

        class Clock(TrainerCallback):
            def on_step_begin(self, _args: Any, state: Any, _control: Any, **_rest: Any) -> None:
                if state.global_step == 0:
                    clock["began"] = finished(device)

            def on_step_end(self, _args: Any, _state: Any, _control: Any, **_rest: Any) -> None:
                clock["ended"] = time.perf_counter()

            def on_train_end(self, _args: Any, _state: Any, _control: Any, **_rest: Any) -> None:
                clock["ended"] = finished(device)

        flags: dict[str, Any] = {
            "output_dir": str(Path(self.setting.folder) / "peers"),
            "num_train_epochs": 1,
            "learning_rate": _LEARNING_RATE,
            "per_device_train_batch_size": self.shape.rows,
            "report_to": [],
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": device.type == "cpu",
            "disable_tqdm": True,
        }
        if best:
            flags |= {"bf16": True, "gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
        data = datasets.Dataset.from_dict({"input_ids": self.ids()})
        lora = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
        base = self.peers_base()
        adapted = get_peft_model(base, lora)
        try:
            if sft:
                from trl import SFTConfig, SFTTrainer

                if best and packed:
                    del flags["train_sampling_strategy"]
                    flags |= {"packing": True, "per_device_train_batch_size": 1}
                trainer: Any = SFTTrainer(
                    model=adapted,
                    args=SFTConfig(**flags, max_length=self.shape.longest),
                    train_dataset=data,
                    processing_class=tokenizer,
                    callbacks=[Clock()],
                )
            else:
                trainer = Trainer(
                    model=adapted,
                    args=TrainingArguments(**flags),
                    train_dataset=data,
                    callbacks=[Clock()],
                    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
                )
            trainer.train()
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        finally:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
            adapted.unload()
            base.requires_grad_(False)
        return {"seconds": clock["ended"] - clock["began"], "loss": losses[-1], "tokens": sum(map(len, self.ids()))}


def take_turns(setting: Setting, arms: list[Arm], device: torch.device, began: float) -> Iterator[Row]:
    """Let arms take turns, five times after a warm-up each, or as often as there is time for; an arm that fails is left out."""
    going = list(arms)
    for turn in range(1 + (2 if setting.tiny else _REPEATS)):
        longest = 0.0
        for arm in [*going[turn % len(going) :], *going[: turn % len(going)]]:
            start = time.monotonic()
            try:
                with peak_of(device) as peak:
                    taken = arm.turn()
            except Exception as error:  # a peer that does not run here costs its own figures
                going.remove(arm)
                yield Row(
                    arm.name,
                    note=f"does not run here: {type(error).__name__}: {str(error)[:300]}",
                    passed=False if arm is arms[0] else None,
                )
                continue
            if turn:
                arm.taken.append(taken)
                arm.peaks.append(peak)
            longest = max(longest, time.monotonic() - start)
        left = setting.seconds - (time.monotonic() - began)
        if not going or (turn and left < 1.5 * longest * len(going)):
            return


def told(bench: Bench, arms: list[Arm], goals: Mapping[str, str]) -> Iterator[Row]:
    """Tell each arm's figures, and the first one's over each other's."""
    own = arms[0]
    base = sum(parameter.nbytes for parameter in bench.base.parameters())
    for arm in arms:
        if not arm.taken:
            continue
        figures: dict[str, Any] = {
            "tokens/s": statistics.median(one["tokens"] / one["seconds"] for one in arm.taken),
            "turns": len(arm.taken),
            "loss": arm.taken[-1]["loss"],
        }
        if arm.peaks[0]:
            for kind in ("allocated", "reserved"):
                figures[f"{kind} GB"] = (statistics.median(peak[kind] for peak in arm.peaks) + base) / 1e9
        if "share" in arm.taken[0]:
            figures |= {name: statistics.median(one[name] for one in arm.taken) for name in ("share", "share by the clock", "matrix peak")}
        yield Row(arm.name, figures)
        if arm is own or not own.taken:
            continue
        ratios = sorted(other / mine for mine, other in zip(own.seconds(), arm.seconds()))
        ratio: dict[str, Any] = {"tokens/s": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}
        if arm.peaks[0]:
            ratio["peak"] = (statistics.median(peak["allocated"] for peak in own.peaks) + base) / (
                statistics.median(peak["allocated"] for peak in arm.peaks) + base
            )
        yield Row(f"{own.name} ÷ {arm.name}", ratio, note=goals.get(arm.name, ""))


_GOALS = {
    "Trainer": "goals: tokens/s at least 3, peak at most 0.4",
    "Trainer, best flags": "goals: tokens/s at least 1.5, peak at most 0.7",
    "SFTTrainer": "goals: tokens/s at least 3, peak at most 0.4",
    "SFTTrainer, best flags": "goals: tokens/s at least 1.5, peak at most 0.7",
}


def _against(setting: Setting, name: str, *, sft: bool, ways: tuple[bool, ...]) -> Iterator[Row]:
    """Set the studio against one peer, mixed rows and packed ones."""
    began = time.monotonic()
    bench = Bench(setting, name)
    peer = "SFTTrainer" if sft else "Trainer"
    for number, packed in enumerate(ways):
        until = Setting(setting.device, setting.tiny, setting.folder, setting.seconds * (number + 1) / len(ways))
        own = bench.config(**({"data.packing": True, "training.per_device_train_batch_size": 1} if packed else {}))
        arms = [Arm("the studio", lambda own=own: bench.train(own))]
        arms += [
            Arm(f"{peer}{', best flags' if best else ''}", lambda best=best, packed=packed: bench.peer(sft=sft, best=best, packed=packed))
            for best in (True, False)
        ]
        if bench.device.type == "cuda" and not packed and not sft:
            arms.append(Arm("the studio, rows end to end", lambda own=own: _end_to_end(bench, own)))
        for row in itertools.chain(take_turns(until, arms, bench.device, began), told(bench, arms, _GOALS)):
            yield Row(f"{'packed' if packed else 'mixed'}: {row.what}", row.figures, row.passed, row.note)


class _JoinedPieces(MicroBatcher):
    """Lays a step's rows end to end on a card too, as on a processor: measured here before runs do it."""

    def __init__(self, rows: Rows, config: RunConfig, device: torch.device, *, padding_free: bool) -> None:
        super().__init__(rows, config, device, padding_free=padding_free)
        self.padding_free = padding_free
        self._tokens = config.training.per_device_train_batch_size * int(rows.lengths.max(initial=1))

    def _cut(self, chosen: Sequence[int]) -> list[tuple[int, ...]]:
        rows = sorted(chosen, key=lambda row: -int(self._rows.lengths[row]))
        return cut_end_to_end(rows, [int(self._rows.lengths[row]) for row in rows], self._tokens, self._tokens)


def _end_to_end(bench: Bench, config: RunConfig) -> dict[str, float]:
    session.MicroBatcher = _JoinedPieces  # type: ignore[misc]
    try:
        return bench.train(config)
    finally:
        session.MicroBatcher = MicroBatcher  # type: ignore[misc]


def one_billion(setting: Setting) -> Iterator[Row]:
    """1B at 2,048 tokens, mixed and packed, against Trainer + PEFT."""
    return _against(setting, "1b", sft=False, ways=(False, True))


def one_billion_trl(setting: Setting) -> Iterator[Row]:
    """1B at 2,048 tokens, mixed and packed, against SFTTrainer."""
    return _against(setting, "1b", sft=True, ways=(False, True))


def eight_billion(setting: Setting) -> Iterator[Row]:
    """8B at 4,096 tokens, packed, against Trainer + PEFT, which cannot pack."""
    return _against(setting, "8b", sft=False, ways=(True,))


def eight_billion_trl(setting: Setting) -> Iterator[Row]:
    """8B at 4,096 tokens, packed, against SFTTrainer."""
    return _against(setting, "8b", sft=True, ways=(True,))


def compiled(setting: Setting) -> Iterator[Row]:
    """The studio with its layers as they are, and compiled: the last half of a run's steps, and what compiling cost before."""
    bench = Bench(setting, "1b")
    packed: dict[str, object] = {"data.packing": True, "training.per_device_train_batch_size": 1}
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for _turn in range(1 if setting.tiny else 3):
        for compiles in found:
            found[compiles].append(bench.train(bench.config(**packed, **{"training.torch_compile": compiles})))
    for compiles, turns in found.items():
        yield Row(
            "compiled" if compiles else "as they are",
            {
                "tokens/s, last half": statistics.median(one["late tokens/s"] for one in turns),
                "warm-up s": turns[-1]["warm-up"],
                "loss": turns[-1]["loss"],
            },
            note="of the last run: the first one's code is kept on disk" if compiles else "",
        )
    ratios = [one["late tokens/s"] / other["late tokens/s"] for one, other in zip(found[True], found[False])]
    off = abs(found[True][-1]["loss"] / found[False][-1]["loss"] - 1)
    yield Row(
        "compiled ÷ as they are",
        {"tokens/s": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "loss off": off},
        off <= 2e-2,
    )


_BURST = {"cuda": 10, "cpu": 1}


def step_overhead(setting: Setting) -> Iterator[Row]:
    """A step of the studio, recorder and sampler and all, over a bare loop's; the arms take turns of a few steps."""
    bench = Bench(setting, "1b")
    burst, turns = _BURST[bench.device.type], 4 if setting.tiny else 7
    config = bench.config(**{"training.num_train_epochs": 10_000, "training.max_steps": burst * (turns + 1) + 2})
    folder = Path(setting.folder) / "speed" / "overhead"
    folder.mkdir(parents=True)
    write_config(folder / "run.yaml", config)
    with random_weights():
        arms = (studio(RunFolder.open(folder).path), bare(config))
        ratios: list[float] = []
        for turn in range(turns + 1):
            order = (0, 1) if turn % 2 else (1, 0)
            seconds = {number: seconds_of(lambda arm=arms[number]: [next(arm) for _ in range(burst)], bench.device) for number in order}
            if turn:
                ratios.append(seconds[0] / seconds[1])
    yield Row(
        "studio ÷ bare loop",
        {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios), "turns": turns, "steps a turn": burst},
        note="goal: at most 1.01",
    )


def matrix_peak(setting: Setting) -> Iterator[Row]:
    """The best product that a run measures, a larger one beside it, and what a copy moves."""
    device = place(setting)
    size = 1024 if setting.tiny else 8192
    for dtype in (SINGLE, HALF, torch.float16):
        if setting.tiny and dtype == torch.float16:
            continue  # a processor without it takes minutes
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = min(seconds_of(lambda one=one, other=other: torch.mm(one, other), device) for _ in range(5))
        found = peak_flops(Precision(device, dtype)) or 0.0
        larger = 2 * size**3 / seconds
        yield Row(
            str(dtype).removeprefix("torch."),
            {"TFLOP/s as runs measure it": found / 1e12, f"at {size}": larger / 1e12, "ratio": found / larger},
            None if setting.tiny else 0.8 <= found / larger <= 1.25,
            "goal 4 is a share of the first",
        )
    data = torch.empty((1 << 24) if setting.tiny else (1 << 31), dtype=torch.uint8, device=device)
    seconds = min(seconds_of(data.clone, device) for _ in range(5))
    yield Row("copy", {"GB/s read and written": 2 * data.nbytes / seconds / 1e9})
