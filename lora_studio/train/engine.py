"""The task that trains: from a run folder with its `run.yaml` to an adapter in it."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lora_studio.adapters.inject import inject, parameter_counts
from lora_studio.core.config import RunConfig
from lora_studio.core.control import Control, TaskContext
from lora_studio.core.errors import InputError
from lora_studio.core.events import Notice, Phase, RunEvent, RunResumed, RunStarted
from lora_studio.core.files import sweep
from lora_studio.core.findings import Finding
from lora_studio.core.modules import ModuleTree
from lora_studio.core.runs import RunFolder
from lora_studio.core.world import World, refuse_other_world
from lora_studio.data.prepare import PreparedData, prepare_data
from lora_studio.inference.loaded_model import LoadedModel
from lora_studio.inference.ready import ReadyBase, folder_of, load_base
from lora_studio.inference.warm_start import NewAdapter, warm_start_findings
from lora_studio.kernels.fused_model import fused_layers
from lora_studio.models.held_weights import saved_modules_finding
from lora_studio.models.load import has_quick_bfloat16, pick_device
from lora_studio.models.quantization import quantization_finding
from lora_studio.planning.checkpointing import Checkpointing
from lora_studio.planning.limits import length_finding, precision_finding
from lora_studio.planning.plan import base_finding
from lora_studio.planning.suggestions import priced_suggestions
from lora_studio.train.checkpointing import checkpointed
from lora_studio.train.compiled import WarmUp, compiled_layers, refuse_without_compiler
from lora_studio.train.disk import told
from lora_studio.train.fitting import choose_checkpointing, costs_of, largest_batch
from lora_studio.train.precision import Precision
from lora_studio.train.ranks import Ranks
from lora_studio.train.records import DATA, ENVIRONMENT, environment_of, write_records
from lora_studio.train.session import TrainingLoop
from lora_studio.train.sharded import let_go_after, load_to_shard
from lora_studio.train.utilization import Utilization, peak_flops
from lora_studio.train.warm_start import warm_up


def train(context: TaskContext, run_dir: str, resume: bool = False) -> Iterator[RunEvent]:
    """Task: train the adapter of a run; result `{"adapter", "steps", "eval_loss"}`.

    Of several processes this is the task of the first one; that of the others is `follow`.

    Args:
        context: Control, and the warm base model.
        run_dir: The run's folder with its `run.yaml`.
        resume: Go on from the newest whole checkpoint, from step 0 where there is none.

    Raises:
        InputError: The model, the data or a setting is wrong; or the run has checkpoints already and `resume` is false.
        StudioError: Out of memory, or a loss that stays not a number.
        Cancelled: The person stopped it; what was to be saved is.
    """
    run = RunFolder.open(Path(run_dir))
    refuse_other_world(run.config, World.of(), resume)
    if not resume and (run.checkpoints or run.adapter_path.exists()):
        raise InputError(f"The run {run.path} has been trained already.", "Resume it, or start a new run with the same settings.")
    device = pick_device(run.config.training.device)
    refuse(quantization_finding(run.config.model.quantization, device.type))
    if run.config.training.torch_compile:
        refuse_without_compiler(device)
    _refuse_sharding(run.config)
    with told(run.path):
        sweep(run.path, (run.adapter_path.name, ENVIRONMENT, DATA))
        sweep(run.path / "checkpoints")
        if resume:
            run.complete_config()
    with _all_ranks(context.control) as ranks:
        ranks.broadcast_object({"run_dir": str(run.path), "config": run.config.model_dump(mode="json"), "resume": resume})
        yield from _attempt(context, ranks, run, resume)


def _refuse_sharding(config: RunConfig) -> None:
    """Refuse what nobody has seen work with a base cut up among processes."""
    if config.training.num_processes > 1 and config.training.distributed_type == "fsdp2":
        if config.model.quantization != "none":
            message = f"A base held in {config.model.quantization} is not cut up among processes."
            raise InputError(message, "Set distributed_type to ddp, or quantization to none.", "training.distributed_type")
        if config.training.torch_compile:
            message = "Layers that are cut up among processes are not compiled."
            raise InputError(message, "Switch torch_compile off.", "training.torch_compile")


def follow(context: TaskContext) -> Iterator[RunEvent]:
    """Task of every process of a run but the first, which tells it what run that is; its events are nobody's."""
    with _all_ranks(context.control) as ranks:
        order = ranks.broadcast_object(None)
        run = RunFolder(Path(order["run_dir"]), RunConfig.model_validate(order["config"]))
        yield from _attempt(context, ranks, run, order["resume"])


@contextlib.contextmanager
def _all_ranks(control: Control) -> Generator[Ranks]:
    """Yield the ranks of the world that this process was launched into; several are connected for the length of a block.

    Raises:
        StudioError: A rank did not come, or is gone; its own words where it left any.
    """
    if World.of().size == 1:
        yield Ranks()
        return
    from lora_studio.train.distributed import distributed_ranks  # what torch needs for it takes its time to load

    with distributed_ranks(control) as ranks:
        yield ranks


def _attempt(context: TaskContext, ranks: Ranks, run: RunFolder, resume: bool) -> Iterator[RunEvent]:
    config = run.config
    sharded = ranks.size > 1 and config.training.distributed_type == "fsdp2"
    ranks.take_device(pick_device(config.training.device), sharded)
    folder, commit = yield from ranks.main_process_first(lambda: folder_of(context, config.model.name_or_path, config.model.revision))
    costs = costs_of(config, folder)
    refuse(base_finding(config, costs.facts, costs.device.kind))
    refuse(saved_modules_finding(config.model.quantization, costs.tree, costs.resolution.saved_modules, costs.facts.stored))
    begins = ranks.is_main_process and not (resume and run.checkpoints)
    _refuse_warm_start(ranks, NewAdapter(config.adapter, costs.tree, costs.resolution, folder) if begins else None)
    # before the model: what is wrong with the data shows first
    data = yield from ranks.main_process_first(lambda: _prepared(context, config, folder))
    if sharded:
        base = yield from load_to_shard(context, config, folder, commit, _wanted_base_dtype(config))
    else:
        base = yield from load_base(context, config.model, folder, commit, config.training.device, _wanted_base_dtype(config))
    precision = pick_precision(config, base)
    longest = max((int(rows.lengths.max()) for rows in (data.train, data.evaluation) if len(rows)), default=0)
    refuse(length_finding(costs.facts, costs.tree, longest))
    checkpointing, chosen = choose_checkpointing(costs, largest_batch(config, data.blocks))
    if chosen is not None:
        yield chosen
    environment = environment_of(config.model, base, precision, checkpointing, ranks)
    _refuse_unlike(ranks, environment, data)
    if ranks.is_main_process:
        with told(run.path):
            write_records(run, environment, data, resume)
    utilization = Utilization(costs.a_step(checkpointing), _peak_of(ranks, precision))
    with let_go_after(base.host, sharded), _adapted(base, config, checkpointing) as (model, warm_up):
        ranks.shard(model, precision.device)
        loop = TrainingLoop(context, run, model, base.tokenizer, data, precision, utilization, priced_suggestions(costs), ranks=ranks)
        if resume and ranks.is_main_process:
            yield from loop.restore()
        if config.adapter.warm_start and loop.step == 0 and ranks.is_main_process:
            yield _warmed(model, config.adapter.warm_start, costs.tree)
        loop.stand_with_first()
        if resume:
            yield RunResumed(step=loop.step, from_step=loop.step, total_steps=loop.plan.total_steps)
        else:
            yield _started(loop, model, data, precision, utilization)
        yield from warm_up.told(loop.run())


@contextlib.contextmanager
def _adapted(base: ReadyBase, config: RunConfig, checkpointing: Checkpointing) -> Generator[tuple[PeftModel, WarmUp]]:
    """Yield the base with a fresh adapter, computing as the settings ask; afterwards it is as it was.

    Compiled inside, computed again outside: what is compiled is then what is computed again.
    """
    with contextlib.ExitStack() as held:
        model = held.enter_context(base.host.adapted(lambda model: inject(model, config.adapter, config.training.seed)))
        held.enter_context(fused_layers(model, parts=base.device.type == "cpu" and not config.training.torch_compile))
        warm_up = held.enter_context(compiled_layers(model, config.training.torch_compile))
        held.enter_context(checkpointed(model, checkpointing))
        yield model, warm_up


def _refuse_warm_start(ranks: Ranks, new: NewAdapter | None) -> None:
    """Refuse, on all ranks alike, an adapter to begin from that does not fit; the first rank alone reads it, and gives `new`."""
    found = warm_start_findings(new) if new else []
    errors = [(finding.message, finding.hint, finding.field) for finding in found if finding.level == "error"]
    for message, hint, field in ranks.broadcast_object(errors):
        raise InputError(message, hint, field)


def _peak_of(ranks: Ranks, precision: Precision) -> float | None:
    """Return the operations a second that all processes together could do; every one has a device like this."""
    peak = peak_flops(precision)
    return peak and peak * ranks.size


def _refuse_unlike(ranks: Ranks, environment: dict[str, Any], data: PreparedData) -> None:
    """Refuse to train on ranks that see other rows or another model, or compute otherwise, than the first."""
    base = environment["base"]
    ranks.refuse_difference(
        {
            "data": data.fingerprint,
            "base model": base["weight_fingerprint"],
            "dtype of the weights": base["dtype"],
            "compute_dtype": environment["compute_dtype"],
            "release": environment["lora_studio"],
            **{f"version of {name}": number for name, number in environment["versions"].items()},
        }
    )


def pick_precision(config: RunConfig, base: ReadyBase) -> Precision:
    """Return the precision of a run.

    Raises:
        InputError: Another dtype is asked of half-precision weights, which such products are not of.
    """
    wanted = config.training.compute_dtype
    if wanted != "auto":
        refuse(precision_finding(str(base.dtype).removeprefix("torch."), wanted))
        return Precision(base.device, getattr(torch, wanted))
    if base.dtype == torch.float32 and has_quick_bfloat16(base.device):
        return Precision(base.device, torch.bfloat16)
    return Precision(base.device, base.dtype)


def refuse(finding: Finding | None) -> None:
    """Raise `InputError` for a finding that is an error."""
    if finding is not None and finding.level == "error":
        raise InputError(finding.message, finding.hint, finding.field)


def _wanted_base_dtype(config: RunConfig) -> torch.dtype | None:
    """`auto` weights follow a computation in float32."""
    follows = config.model.dtype == "auto" and config.training.compute_dtype == "float32"
    return torch.float32 if follows else None


def _prepared(context: TaskContext, config: RunConfig, folder: Path) -> Generator[RunEvent, None, PreparedData]:
    """Tokenize the data with the tokenizer of the model in `folder`."""

    def progress(done: int, total: int) -> None:
        context.control.check()
        context.post(Phase(name="preparing", message="Tokenizing", done=done, total=total, unit="bytes"))

    yield Phase(name="preparing", message="Reading and tokenizing the data")
    data = prepare_data(config.data, LoadedModel.of(context).tokenizer(folder), config.training.seed, progress)
    context.control.check()
    return data


def _warmed(model: PeftModel, source: str, tree: ModuleTree) -> Notice:
    """Begin from an adapter that is there; say which modules it left at zero."""
    fresh = warm_up(model, source, tree)
    hint = f"{len(fresh)} modules that it does not have start from zero, first {fresh[0]}." if fresh else ""
    return Notice(code="warm_start", message=f"The adapter begins from {source}.", hint=hint)


def _started(loop: TrainingLoop, model: PeftModel, data: PreparedData, precision: Precision, utilization: Utilization) -> RunStarted:
    trainable, everything = parameter_counts(model)
    return RunStarted(
        total_steps=loop.plan.total_steps,
        train_rows=len(data.train),
        eval_rows=len(data.evaluation),
        trainable_parameters=trainable,
        all_parameters=everything,
        device=str(precision.device),
        compute_dtype=str(precision.compute).removeprefix("torch."),
        peak_flops=utilization.peak_flops,
    )
