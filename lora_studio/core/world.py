"""Which of a run's processes this is, as its launcher's environment says: `torchrun`, `accelerate launch`, or the studio itself."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_studio.core.config import RunConfig
from lora_studio.core.errors import InputError

FIELD = "training.num_processes"
STARTED = "LORA_STUDIO_STARTED"
"""Names the variable that holds the process numbers of ranks 1, 2, … where the first rank started them itself."""
_FOREIGN = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed takes optimizer and checkpoints into its own hands, and nobody has tested that it leaves a run "
    "of the studio whole.",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM brings models of its own, to which no adapter is made here.",
}
_YES = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class World:
    """One process among those that train a run together.

    Attributes:
        rank: Its number, from 0. The first one owns the run's folder and speaks for all.
        size: How many there are, on all machines.
        local_rank: Its number on its machine.
        local_size: How many there are on its machine.
        launched: Whether a launcher said so; without one the process is alone.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launched: bool = False

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> World:
        """Read the variables that every launcher of PyTorch sets.

        Raises:
            InputError: One of them is no number, or they contradict each other.
        """
        size, rank = _number(environ, "WORLD_SIZE", 1), _number(environ, "RANK", 0)
        local_size, local_rank = _number(environ, "LOCAL_WORLD_SIZE", size), _number(environ, "LOCAL_RANK", rank)
        if not (0 <= rank < size and 0 <= local_rank < local_size):
            raise InputError(
                f"The environment says that this is process {rank} of {size}, {local_rank} of {local_size} on its machine.",
                "Unset RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE, or start it with torchrun.",
            )
        return cls(rank, size, local_rank, local_size, "WORLD_SIZE" in environ)


def refuse_other_world(config: RunConfig, world: World, resume: bool = False, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse to train with other processes than the run's settings say, or under a framework that the studio was not tested with.

    Args:
        config: The run.
        world: The processes that were started.
        resume: A run goes on with any number of processes: its steps take the same rows.
        environ: What `accelerate launch` was told stands here.

    Raises:
        InputError: They do not agree; it names both, and the way out.
    """
    for variable, reason in _FOREIGN.items():
        if _is_set(environ, variable):
            raise InputError(f"{variable} is set: {reason}", "Launch with torchrun, or choose multi-GPU or FSDP in accelerate's config.")
    kind = config.training.distributed_type
    if _is_set(environ, "ACCELERATE_USE_FSDP") and kind != "fsdp2":
        raise InputError(
            f"accelerate was told to use FSDP, and the run says {kind}.",
            "Set training.distributed_type to fsdp2, or launch without FSDP.",
            "training.distributed_type",
        )
    wanted = config.training.num_processes
    if world.size != wanted and not resume:
        started = "1 process was" if world.size == 1 else f"{world.size} processes were"
        raise InputError(f"{started} started for a run of {wanted}.", _way_out(wanted, world), FIELD)


def launch_command(config: Path | str, num_processes: int = 1) -> str:
    """Return the command that trains a run config, as a shell on this machine takes it."""
    python = shlex.quote(sys.executable)
    launcher = f"-m torch.distributed.run --standalone --nproc-per-node {num_processes} " if num_processes > 1 else ""
    return f"{python} {launcher}-m lora_studio train {shlex.quote(str(config))}"


def _way_out(wanted: int, world: World) -> str:
    alone = wanted == 1 or not world.launched  # a command that no launcher started starts the others itself
    launcher = "lora-studio" if alone else f"torchrun --standalone --nproc-per-node {wanted} -m lora_studio"
    return f"Set {FIELD} to {world.size}, or start it with `{launcher} train RUN.yaml`."


def _is_set(environ: Mapping[str, str], variable: str) -> bool:
    return environ.get(variable, "").lower() in _YES


def _number(environ: Mapping[str, str], variable: str, usual: int) -> int:
    told = environ.get(variable, "")
    try:
        return int(told) if told else usual
    except ValueError as error:
        message = f"{variable} is {told!r} in the environment, which is no number."
        raise InputError(message, "Unset it, or start it with torchrun.") from error
