"""One family through all that we do with a model, each piece set against plain transformers and PEFT."""

from __future__ import annotations

import json
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lora_studio.adapters.config import to_lora_config
from lora_studio.adapters.inject import inject
from lora_studio.core.config import RunConfig
from lora_studio.core.config_files import write_config
from lora_studio.core.control import TaskContext
from lora_studio.core.counts import all_parameters, trainable_parameters
from lora_studio.core.errors import StudioError
from lora_studio.core.events import RunFinished, Step
from lora_studio.core.modules import ModuleTree
from lora_studio.core.runs import RunFolder
from lora_studio.core.targets import PRESETS, Selection, compile_selection, resolve
from lora_studio.data.batching.plan import StepPlan
from lora_studio.data.prepare import PreparedData, prepare_data
from lora_studio.data.token_rows import TokenRow, end_to_end
from lora_studio.export.task import export
from lora_studio.inference.loaded_model import load_adapter
from lora_studio.kernels.batches import make_batch
from lora_studio.kernels.head import SelectedHead
from lora_studio.kernels.packed import refuse_unpackable
from lora_studio.models.facts import read_facts
from lora_studio.models.inspect import empty_model, inspect_model
from lora_studio.models.load import load_model, load_tokenizer
from lora_studio.planning.plan import make_plan
from lora_studio.train.engine import train
from tests.families.configs import tiny_family_model
from tests.families.steps import CPU, Figures, our_steps, plain_steps
from tests.tiny import save_tiny_tokenizer

CHECKS = ("inspect", "presets", "plan", "rows", "steps", "adapter", "merged", "packing")
FINE = "yes"
_STEPS = 4
_SEED = 42
_TOLERANCE = 1e-5
_WORDS = ("parcel", "never arrived", "and nobody answers", "the phone", "the invoice shows", "a wrong address", "please send", "one more")


@dataclass
class Outcome:
    """What came of a family.

    Attributes:
        family: transformers' name of it.
        architecture: The class that its config makes.
        parameters: Of the tiny model.
        checks: What each of CHECKS said: "yes" (and how), or what falls short; one that could not be tried any more is left out.
        seconds: Of a processor that it took.
    """

    family: str
    architecture: str = ""
    parameters: int = 0
    checks: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def shortfalls(self) -> dict[str, str]:
        """What falls short, by check."""
        return {name: said for name, said in self.checks.items() if not said.startswith(FINE)}

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def go_through(family: str, folder: Path) -> Outcome:
    """Take a family through all checks, in an empty folder; what fails is what the outcome says."""
    began = time.process_time()
    outcome = Outcome(family)
    warnings.simplefilter("ignore")
    trial = _Trial(outcome, folder)
    if trial.said("config", trial.make):
        for name in CHECKS:
            if not trial.said(name, getattr(trial, name)) and name in ("inspect", "steps"):
                break  # nothing further can be tried
    outcome.seconds = time.process_time() - began
    return outcome


class ShortError(Exception):
    """Something falls short."""


class _Trial:
    def __init__(self, outcome: Outcome, folder: Path) -> None:
        self._outcome = outcome
        self._base, self._run, self._out = folder / "base", folder / "run", folder / "out"
        self._data = folder / "rows.jsonl"
        self._tree: ModuleTree | None = None

    def said(self, name: str, check: Callable[[], str]) -> bool:
        """Run a check and note what it says; whether all is well."""
        try:
            self._outcome.checks[name] = " ".join(filter(None, (FINE, check())))
        except ShortError as error:
            self._outcome.checks[name] = str(error)
        except StudioError as error:
            self._outcome.checks[name] = f"refused: {_line(error)}"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._outcome.checks[name] = f"{type(error).__name__}: {_line(error)} ({Path(place.filename).name}:{place.lineno})"
        return self._outcome.checks[name].startswith(FINE)

    @property
    def tree(self) -> ModuleTree:
        """The base's modules."""
        assert self._tree is not None
        return self._tree

    def make(self) -> str:
        """Make the tiny model, its tokenizer and rows of mixed length."""
        model = tiny_family_model(self._outcome.family)
        self._outcome.architecture = type(model).__name__
        self._outcome.parameters = sum(parameter.numel() for parameter in model.parameters())
        if self._outcome.parameters > 5_000_000:
            raise ShortError(f"no tiny config: {self._outcome.parameters:,} parameters")
        model.save_pretrained(self._base)
        save_tiny_tokenizer(self._base, chat_template=None)
        rows = [
            {"prompt": " ".join(_WORDS[: 1 + number % 4]), "completion": " ".join(_WORDS[number % 5 : number % 5 + 1 + number % 3])}
            for number in range(16)
        ]
        self._data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return ""

    def inspect(self) -> str:
        """The tree from the config alone counts what the loaded model has."""
        self._tree = inspect_model(self._base)
        loaded = sum(parameter.numel() for parameter in load_model(self._base, torch.float32, CPU).parameters())
        if loaded != self._tree.all_parameters:
            raise ShortError(f"{self._tree.all_parameters:,} parameters in the tree, {loaded:,} in the model")
        return f"({sum(module.targetable for module in self._tree.modules)} targetable)"

    def presets(self) -> str:
        """Each preset compiles to settings that mean it."""
        sizes = []
        for name in ("attention", "mlp", "all_linear"):
            wanted = PRESETS[name](self.tree)
            sizes.append(len(wanted))
            if wanted:
                found = frozenset(target.name for target in resolve(self._config(name).adapter, self.tree).check().targets)
                if found != wanted:
                    raise ShortError(f"{name} means {len(found)} modules instead of {len(wanted)}")
        if not sizes[-1]:
            raise ShortError("all_linear is empty")
        return "({} + {} of {})".format(*sizes)

    def plan(self) -> str:
        """What a plan counts is what PEFT injects."""
        counts = {}
        for name in ("attention", "mlp", "all_linear"):
            if not PRESETS[name](self.tree):
                continue
            config = self._config(name)
            resolution = resolve(config.adapter, self.tree).check()
            errors = [
                finding.message
                for finding in make_plan(config, read_facts(self._base), self.tree, None).findings
                if finding.level == "error"
            ]
            if errors:
                raise ShortError(f"{name}: {errors[0]}")
            counts[name] = trainable_parameters(config.adapter, self.tree, resolution)
            injected = _peft(empty_model(self._base), config, self.tree, low_cpu_mem_usage=True)
            found, total = injected.get_nb_trainable_parameters()
            if found != counts[name]:
                raise ShortError(f"{name}: {counts[name]:,} planned, PEFT trains {found:,}")
            if total != all_parameters(config.adapter, self.tree, resolution):
                raise ShortError(f"{name}: PEFT counts {total:,} parameters in all")
        return f"({counts['all_linear']:,} trained)"

    def rows(self) -> str:
        """The first loss and gradient of each row are plain transformers'."""
        rows = list(self._prepared().train)[:4]
        steps = [[row] for row in rows]
        return _compared(our_steps(self._adapted().eval(), steps, 0.0), plain_steps(self._plain(), steps, 0.0))

    def steps(self) -> str:
        """So are those of four steps of a run over all rows."""
        self._run.mkdir()
        config = self._config("all_linear")
        write_config(self._run / "run.yaml", config)
        events = list(train(TaskContext(), str(self._run), False))
        taken = [(event.loss, event.grad_norm) for event in events if isinstance(event, Step)]
        data = self._prepared().train
        plan = StepPlan(data.lengths, data.trained_counts, config.training, data.fingerprint())
        rows = [[data[number] for number in plan.step(step).rows] for step in range(_STEPS)]
        plain = self._plain()
        return _compared(taken, plain_steps(plain.train(), rows, config.training.learning_rate))

    def adapter(self) -> str:
        """The exported adapter, loaded by PEFT, is what the run learned."""
        target = self._export("adapter", check="tensors")  # what its certificate runs, the merged one's does too
        learned, found, base = self._learned(), self._logits(target), self._logits(None)
        if torch.equal(learned, base):
            raise ShortError("the adapter does nothing")
        return _close(found, learned)

    def merged(self) -> str:
        """The merged model, loaded by transformers, is base and adapter."""
        target = self._export("merged", dtype="float32")
        return _close(_logits_of(_load(target), self._sample()), self._learned())

    def packing(self) -> str:
        """Rows packed into one row have the loss that they have alone, or packing is refused."""
        model = self._adapted().eval()
        head = SelectedHead(model)
        try:
            refuse_unpackable(model)
            head.conduct.refuse_packing()
        except StudioError as error:
            return f"(refused: {'tried out' if 'tried out' in error.message else 'by its layers'})"
        rows = list(self._prepared().train)[:3]
        packed = make_batch([end_to_end(rows)])
        alone = plain_steps(self._plain(), [[row] for row in rows], 0.0)
        with torch.no_grad(), head:
            found = float(head.loss_sum(packed)) / sum(int(row.trained[1:].sum()) for row in rows)
        counts = [int(row.trained[1:].sum()) for row in rows]
        wanted = sum(loss * count for (loss, _norm), count in zip(alone, counts)) / sum(counts)
        if abs(found - wanted) > _TOLERANCE * max(1.0, abs(wanted)):
            raise ShortError(f"packed rows have the loss {found:.6f}, alone {wanted:.6f}")
        return ""

    def _config(self, preset: str) -> RunConfig:
        config = RunConfig().replace(
            {
                "name": self._outcome.family,
                "model.name_or_path": str(self._base),
                "data.train": (str(self._data),),
                "data.max_length": 64,
                "data.eval_fraction": 0.0,
                "adapter.r": 4,
                "adapter.lora_alpha": 8,
                "adapter.lora_dropout": 0.0,
                "adapter.target_modules": (),
                "training.learning_rate": 1e-3,
                "training.lr_scheduler_type": "constant",
                "training.warmup_steps": 0,
                "training.per_device_train_batch_size": 4,
                "training.gradient_accumulation_steps": 1,
                "training.max_steps": _STEPS,
                "training.sample_rows": 0,
                "training.device": "cpu",
                "training.compute_dtype": "float32",
                "training.seed": _SEED,
            }
        )
        wanted = PRESETS[preset](self.tree)
        compiled = compile_selection(Selection(wanted), self.tree, 4, 8)
        return config.replace(compiled.changes())

    def _prepared(self) -> PreparedData:
        return prepare_data(self._config("all_linear").data, load_tokenizer(self._base), _SEED)

    def _adapted(self) -> Any:
        return inject(load_model(self._base, torch.float32, CPU), self._config("all_linear").adapter, _SEED)

    def _plain(self) -> Any:
        """PEFT's model on transformers' own, with the numbers that ours begins with."""
        model = _peft(_load(self._base), self._config("all_linear"), self.tree)
        begun = {name: parameter for name, parameter in self._adapted().named_parameters() if parameter.requires_grad}
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if begun.keys() != trained.keys():
            raise ShortError(f"PEFT trains other parameters: {sorted(begun.keys() ^ trained.keys())[:2]}")
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(begun[name])
        return model.eval()

    def _export(self, kind: str, **options: Any) -> Path:
        target = self._out / kind
        self._out.mkdir(exist_ok=True)
        events = list(export(TaskContext(), str(self._run), kind, str(target), **options))
        assert isinstance(events[-1], RunFinished)
        return target

    def _sample(self) -> TokenRow:
        return max(self._prepared().train, key=lambda row: row.input_ids.size)

    def _learned(self) -> torch.Tensor:
        """The logits of base and run, every tensor of the run's file in its place."""
        return _logits_of(load_adapter(_load(self._base), RunFolder.open(self._run).adapter_path).eval(), self._sample())

    def _logits(self, adapter: Path | None) -> torch.Tensor:
        from peft import PeftModel

        base = _load(self._base)
        return _logits_of(base if adapter is None else PeftModel.from_pretrained(base, str(adapter)).eval(), self._sample())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _load(folder: Path) -> Any:
    """Load a folder as anyone does, in float32, with the attention that its family takes by itself."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _peft(model: Any, config: RunConfig, tree: ModuleTree, **options: Any) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, to_lora_config(config.adapter, tree), **options)


@torch.no_grad()
def _logits_of(model: Any, row: TokenRow) -> torch.Tensor:
    return model(input_ids=torch.from_numpy(row.input_ids.astype("int64"))[None], use_cache=False).logits[0].float()


def _compared(found: list[Figures], wanted: list[Figures]) -> str:
    """Hold losses and gradient norms against plain ones; give the largest difference, relative above 1."""
    if len(found) != len(wanted):
        raise ShortError(f"{len(found)} steps instead of {len(wanted)}")
    largest = 0.0
    for step, (ours, plain) in enumerate(zip(found, wanted)):
        for what, one, other in zip(("loss", "gradient norm"), ours, plain):
            off = abs(one - other) / max(1.0, abs(other))
            largest = max(largest, off)
            if not off <= _TOLERANCE * (1 if step == 0 else 10):  # rounding grows from step to step
                raise ShortError(f"{what} {step + 1}: {one:.6f}, plain {other:.6f}")
    return f"({largest:.0e})"


def _close(found: torch.Tensor, wanted: torch.Tensor) -> str:
    off = float((found - wanted).abs().max() / wanted.std().clamp(min=1e-12))
    if not off <= 1e-4:
        raise ShortError(f"logits are off by {off:.1e} of their spread")
    return f"({off:.0e})"
