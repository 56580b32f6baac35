"""Where the processes of a run meet: a store that one of them, or the launcher's agent, keeps at a known address."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import psutil
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # public, though its types do not say so

from lora_studio.core.control import Control
from lora_studio.core.errors import InputError, StudioError
from lora_studio.core.waits import Patience
from lora_studio.core.world import STARTED, World

_WAIT_S = 600.0
_TRY_S = 60.0
_LOOK_S = 0.1
_FAULT = "fault"


@dataclass(frozen=True)
class Meeting:
    """The store that all ranks can read and write.

    Attributes:
        store: This attempt's part of it.
    """

    store: Store

    def for_group(self) -> Store:
        """Return the part in which the ranks find each other's addresses."""
        return PrefixStore("group", self.store)

    def leave_word(self, rank: int, error: BaseException) -> None:
        """Leave word of why a rank ends, for the others to tell; the first word stays."""
        told = {
            "rank": rank,
            "message": str(error),
            "hint": "",
            "field": "",
            "exit_status": StudioError.exit_status,
            **(vars(error) if isinstance(error, StudioError) else {"message": f"{type(error).__name__}: {error}"}),
        }
        told["exit_status"] = getattr(error, "exit_status", StudioError.exit_status)
        with contextlib.suppress(RuntimeError):  # whoever keeps the store may be gone
            self.store.compare_set(_FAULT, "", json.dumps(told))

    def word_left(self) -> StudioError | None:
        """Return the error of a rank that has left word of it."""
        with contextlib.suppress(RuntimeError):
            if self.store.check([_FAULT]):
                told = json.loads(self.store.get(_FAULT))
                kind = InputError if told["exit_status"] == InputError.exit_status else StudioError
                return kind(f"Process {told['rank']}: {told['message']}", told["hint"], told["field"])
        return None


def meet(world: World, control: Control) -> Meeting:
    """Wait until every rank is there.

    Raises:
        Cancelled: The person asked to stop meanwhile.
        InputError: The environment does not say where to meet.
        StudioError: A rank did not come, or has ended.
    """
    patience = Patience(_WAIT_S)
    store = PrefixStore(f"lora_studio/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store(world, control, patience))
    here = [f"here/{rank}" for rank in range(world.size)]
    store.set(here[world.rank], "1")
    while not store.check(here):
        _look(control, patience, [rank for rank, key in enumerate(here) if not store.check([key])])
        control.wait(_LOOK_S)
    return Meeting(store)


def _store(world: World, control: Control, patience: Patience) -> TCPStore:
    """Open the store, or reach the one of the first rank or of the launcher's agent."""
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdigit():
        raise InputError(
            f"WORLD_SIZE is {world.size}, but MASTER_ADDR and MASTER_PORT do not say where its processes meet.",
            "Start them with torchrun or accelerate launch, or unset WORLD_SIZE.",
        )
    keeps = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    while not keeps and not _answers(address, int(port)):  # torch would wait deaf to signals, and print where it stands
        _look(control, patience, [0])
        control.wait(_LOOK_S)
    try:
        return TCPStore(address, int(port), world.size, keeps, timedelta(seconds=_TRY_S), wait_for_workers=False)
    except DistError as error:
        message = f"The run's processes cannot meet at {address}, port {port}: {error}."
        raise StudioError(message, "Give MASTER_PORT another number.") from error


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), _LOOK_S * 10):
            return True
    except OSError:
        return False


def _look(control: Control, patience: Patience, missing: list[int]) -> None:
    control.check()
    ended = [rank for rank in missing if _has_ended(rank)]
    if ended or patience.is_over():
        who = ("Process " if len(ended or missing) == 1 else "Processes ") + ", ".join(map(str, ended or missing))
        how = "ended before it met the others" if ended else f"did not come within {_WAIT_S / 60:g} minutes"
        raise StudioError(f"{who} of the run {how}.", "Look at what it said, and whether it can reach MASTER_ADDR.")


def _has_ended(rank: int) -> bool:
    """Return whether a rank that this one started has ended; of others nothing is known."""
    started = os.environ.get(STARTED, "").split(",")
    if not 0 < rank <= len(started) or not started[rank - 1].isdigit():
        return False
    try:
        return psutil.Process(int(started[rank - 1])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
