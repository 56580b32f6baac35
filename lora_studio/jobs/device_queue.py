"""One device, one lease: the line of jobs in front of a device, which all hosts of a program share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from lora_studio.jobs.job import Job


@dataclass(frozen=True)
class _Place:
    """A job in the line, and the host that is to run it."""

    job: Job
    owner: object


class DeviceQueue:
    """Who has the device, and who waits for it in which order. The next job starts when nobody has it.

    Several may have it at once: runs that were found alive in other processes are at work whatever the line says.

    Attributes:
        held_back: Nobody gets the device while this is true; see `hold_back`.
        changed: Held around every look and every change; the hosts keep their own lists under it too, so that a job is
            always in one place. Notified when the device or the head of the line may be another.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held_back = False
        self._waiting: list[_Place] = []
        self._having: list[_Place] = []

    @property
    def queue(self) -> tuple[Job, ...]:
        """Jobs that wait, the next one first."""
        with self.changed:
            return tuple(place.job for place in self._waiting)

    @property
    def holders(self) -> tuple[Job, ...]:
        """Jobs that have the device."""
        with self.changed:
            return tuple(place.job for place in self._having)

    def waiting_of(self, owner: object) -> tuple[Job, ...]:
        """Return the jobs that wait for this host to run them, the next one first."""
        with self.changed:
            return tuple(place.job for place in self._waiting if place.owner is owner)

    def join(self, job: Job, owner: object) -> None:
        """Put a job at the end of the line."""
        with self.changed:
            self._waiting.append(_Place(job, owner))
            self.changed.notify_all()

    def leave(self, job: Job) -> bool:
        """Take a job out of the line; say whether it was in it."""
        with self.changed:
            place = self._place_of(job)
            if place is not None:
                self._waiting.remove(place)
                self.changed.notify_all()
            return place is not None

    def move(self, job: Job, position: int) -> None:
        """Put a waiting job at a position of the line, 0 being next; one that no longer waits stays where it is."""
        with self.changed:
            place = self._place_of(job)
            if place is not None:
                self._waiting.remove(place)
                self._waiting.insert(max(0, position), place)
                self.changed.notify_all()

    def take(self, owner: object) -> Job | None:
        """Return the device to the next job, if it is this host's to run and nobody has the device; None otherwise."""
        with self.changed:
            if self.held_back or self._having or not self._waiting or self._waiting[0].owner is not owner:
                return None
            place = self._waiting.pop(0)
            self._having.append(place)
            return place.job

    def hold_back(self, back: bool = True) -> None:
        """Keep the line from moving on when the device comes free, or let it move on again."""
        with self.changed:
            self.held_back = back
            self.changed.notify_all()

    def hold(self, job: Job, owner: object) -> None:
        """Note that a job has the device already, whatever the line says."""
        with self.changed:
            self._having.append(_Place(job, owner))

    def release(self, job: Job) -> None:
        """Let go of the device; nothing happens where the job did not have it."""
        with self.changed:
            self._having = [place for place in self._having if place.job is not job]
            self.changed.notify_all()

    def is_with_another(self, owner: object) -> bool:
        """Return whether a job of another host has the device."""
        with self.changed:
            return any(place.owner is not owner for place in self._having)

    def in_order(self, jobs: Iterable[Job]) -> list[Job]:
        """Put jobs in the order in which they come to the device: those that wait as the line has them, behind the others."""
        places = {job: number for number, job in enumerate(self.queue, start=1)}
        return sorted(jobs, key=lambda job: places.get(job, 0))

    def _place_of(self, job: Job) -> _Place | None:
        return next((place for place in self._waiting if place.job is job), None)
