"""Several processes as one: what they say to each other, over gloo for all that the host knows and the device's own way for gradients.

Since an adapter is small, its gradients go into one flat sum a step, with nothing in between: ranks may take different numbers of
micro-batches, or none, and the gradient is the same as one process's but for the order of its sums. No rank waits without an end: a
peer that dies closes its connections, which is an error here at once; one that is silent is given up after a time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn

from lora_studio.core.control import Control
from lora_studio.core.errors import Cancelled, InputError, StudioError
from lora_studio.core.events import RunEvent
from lora_studio.core.world import World
from lora_studio.train.faults import TooLargeError
from lora_studio.train.ranks import Made, Ranks
from lora_studio.train.rendezvous import Meeting, meet
from lora_studio.train.sharded import shard

_PROMPT = timedelta(minutes=30)  # between two micro-batches, or for one collective of a pass
_PATIENT = timedelta(days=7)  # while the first rank downloads, tokenizes, writes, or waits for room on the disk
_LOOK_S = 0.5
_CLOSED = ("connection closed", "connection reset", "broken pipe", "connection refused")
_OF_GROUPS = ("gloo", "nccl")


@contextlib.contextmanager
def distributed_ranks(control: Control) -> Generator[Ranks]:
    """Yield one of several ranks, met and connected for the length of a block.

    Raises:
        StudioError: A rank did not come, or is gone; its own words where it left any.
    """
    world = World.of()
    meeting = meet(world, control)
    dist.init_process_group("gloo", store=meeting.for_group(), rank=world.rank, world_size=world.size, timeout=_PROMPT)
    ranks = DistributedRanks(world, meeting)
    try:
        yield ranks
        ranks.broadcast_object(None)  # nobody leaves before all are done
    except (Cancelled, LostRankError):
        raise
    except Exception as error:
        lost = ranks.lost(error)
        if lost is None:
            meeting.leave_word(world.rank, error)
            raise
        raise lost from error
    finally:
        dist.destroy_process_group()


class LostRankError(StudioError):
    """Another process of the run is gone."""


class AgreedControl(Control):
    """Requests as all ranks know them: they move only where all agree, so that all heed them at the same place."""

    def __init__(self, own: Control, agree: Callable[[], object]) -> None:
        super().__init__()
        self.own = own
        self._agree = agree

    def asked(self) -> list[int]:
        """Return what was asked of this process alone, as flags."""
        own = self.own
        return [int(flag) for flag in (own.stopping, own.abandoning, own.paused, own.take_checkpoint_request(), own.take_sample_request())]

    def take_in(self, flags: Sequence[int]) -> None:
        """Take in what was asked of any process."""
        with self._changed:
            self._stop, self._abandon, self._paused = (bool(flag) for flag in flags[:3])
            self._checkpoint, self._sample = self._checkpoint or bool(flags[3]), self._sample or bool(flags[4])

    def wait_while_paused(self, timeout: float | None = None) -> bool:
        """Wait, agreeing twice a second, until no process is paused or all are to end; `timeout` is not looked at."""
        while self.paused and not self.stopping:
            self.own.wait_while_paused(_LOOK_S)
            self._agree()
        return True


class DistributedRanks(Ranks):
    """One of several processes that train a run together."""

    def __init__(self, world: World, meeting: Meeting) -> None:
        super().__init__()
        self.rank, self.size = world.rank, world.size
        self._world = world
        self._meeting = meeting
        self._patient: Any = dist.new_group(backend="gloo", timeout=_PATIENT)
        self._device = torch.device("cpu")
        self._group: Any = dist.group.WORLD  # of the device
        self.backend = "gloo"
        self._control: AgreedControl | None = None
        self._overdue = False
        self._step = "meeting"  # what is waited for, in words that follow "while"

    def take_device(self, device: torch.device, sharded: bool) -> None:
        """Carry gradients, and parts of a model, the way that suits the device."""
        self._device, self.sharded = device, sharded
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
            self.backend = "nccl"
            self._group = dist.new_group(backend="nccl", timeout=_PROMPT)

    def control(self, own: Control) -> Control:
        """Return the requests that move only where all agree."""
        self._control = AgreedControl(own, lambda: self.agree(None, overdue=False))
        return self._control

    def agree(self, too_large: TooLargeError | None, overdue: bool) -> TooLargeError | None:
        """Take the largest of everything over all ranks."""
        self._step = "agreeing on the next piece of a step"
        assert self._control is not None
        if too_large is not None and self.sharded:
            raise _too_large_for_a_part(too_large)
        size = (0, 0) if too_large is None else (too_large.rows, too_large.width)
        flags = torch.tensor([*self._control.asked(), int(overdue and self.is_main_process), *size])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        *asked, late, rows, width = (int(flag) for flag in flags.tolist())
        self._control.take_in(asked)
        self._overdue = bool(late)
        self.too_large = TooLargeError(rows, width) if rows else None
        return self.too_large

    def overdue(self, here: bool) -> bool:
        """Say what the first rank's clock said when all last agreed."""
        return self._overdue

    def on_main_process(self, work: Callable[[], Generator[RunEvent, None, Made]]) -> Generator[RunEvent, None, Made]:
        """Let the first rank work, the others wait for what it made."""
        made = (yield from work()) if self.is_main_process else None
        return self.broadcast_object(made)

    def main_process_first(self, work: Callable[[], Generator[RunEvent, None, Made]]) -> Generator[RunEvent, None, Made]:
        """Let the first rank of each machine work, then the others."""
        self._step = "letting a machine's first process go before the others"
        if self._world.local_rank == 0:
            made = yield from work()
            dist.barrier(self._patient)
            return made
        dist.barrier(self._patient)
        return (yield from work())

    def broadcast_object(self, document: Any) -> Any:
        """Send the first rank's document to all, as JSON."""
        self._step = "sending what the first process has to tell"
        data = torch.frombuffer(bytearray(json.dumps(document).encode()), dtype=torch.uint8)
        length = torch.tensor([data.numel()])
        dist.broadcast(length, 0, self._patient)
        if not self.is_main_process:
            data = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0, self._patient)
        return json.loads(bytes(data.tolist()))

    def all_reduce(self, *numbers: float) -> list[float]:
        """Add up numbers on the host, in float64."""
        self._step = "adding up figures"
        figures = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(figures)
        return figures.tolist()

    def add_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor | None) -> Tensor | None:
        """Add up in one flat sum, in float32."""
        self._step = "adding up gradients"
        there = torch.tensor([loss is not None, *(parameter.grad is not None for parameter in parameters)], dtype=torch.uint8)
        dist.all_reduce(there, dist.ReduceOp.MAX)  # on the host: a parameter that no rank has a gradient for is to have none
        has_loss, *touched = there.bool().tolist()
        summed = [parameter for parameter, has in zip(parameters, touched, strict=True) if has]
        own_loss = torch.zeros(1, device=self._device) if loss is None else loss.float().reshape(1)
        flat = torch.cat([*(_flat_gradient(parameter) for parameter in summed), own_loss])
        dist.all_reduce(flat, group=self._group)
        *parts, total = flat.split([*(parameter.numel() for parameter in summed), 1])
        for parameter, part in zip(summed, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        return total.reshape(()) if has_loss else None

    def broadcast_parameters(self, parameters: Mapping[str, nn.Parameter], optimizer: Any) -> None:
        """Send the first rank's weights and moments to all."""
        held: dict[str, list[str]] = self.broadcast_object({name: list(optimizer.state.get(own, {})) for name, own in parameters.items()})
        self._step = "sending weights"
        for name, parameter in parameters.items():
            dist.broadcast(parameter.data, 0, self._group)
            for kind in held[name]:
                state = optimizer.state[parameter]
                if not self.is_main_process:
                    counts = kind == "step"
                    state[kind] = torch.zeros((), device=parameter.device) if counts else torch.zeros_like(parameter.data)
                dist.broadcast(state[kind], 0, self._group)

    def shard(self, model: PeftModel, device: torch.device) -> None:
        """Keep this rank's part of the base."""
        self._step = "parting the base model"
        if self.sharded:
            shard(model, device, self._group)

    def refuse_difference(self, facts: Mapping[str, str]) -> None:
        """Hold what is here against what the first rank has."""
        for what, wanted in self.broadcast_object(dict(facts)).items():
            if facts[what] != wanted:
                raise InputError(
                    f"Process {self.rank} has another {what} than process 0: {facts[what]}, not {wanted}.",
                    "All machines need the same model, data and versions.",
                )

    def lost(self, error: BaseException) -> StudioError | None:
        """Tell a broken connection, in the words of the rank that broke it where it left any."""
        if isinstance(error, StudioError) or not isinstance(error, RuntimeError):
            return None
        said = str(error).strip().partition("\n")[0]
        closed = any(word in said.lower() for word in _CLOSED)
        if not closed and not isinstance(error, dist.DistError) and not any(word in said.lower() for word in _OF_GROUPS):
            return None
        word = self._meeting.word_left() if self.is_main_process else None  # nobody hears the others
        why = "" if closed else f" or does not answer, while {self._step}: {said[:200]}"
        message = f"Another of the run's {self.size} processes is gone{why}."
        return word or LostRankError(message, "Look at what it said, then resume the run.")


def _flat_gradient(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient as (N,) in float32, zero where this rank has none."""
    if parameter.grad is None:
        return torch.zeros(parameter.numel(), device=parameter.device)
    return parameter.grad.float().flatten()


def _too_large_for_a_part(error: TooLargeError) -> StudioError:
    """The other ranks stand in the middle of a pass, waiting for this one's part: nothing can be taken again."""
    alone = error.rows == 1
    what = "1 row of" if alone else f"{error.rows} rows of up to"
    way = "Lower max_length" if alone else "Halve per_device_train_batch_size, with twice the accumulation"
    return StudioError(
        f"Out of memory on {what} {error.width} tokens. With fsdp2 a step cannot be taken again in smaller pieces.",
        f"{way}, in a new run; or switch gradient_checkpointing on.",
        "data.max_length" if alone else "training.per_device_train_batch_size",
    )
