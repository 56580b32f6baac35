"""Early words about a loss that leaves its course."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable

_WINDOW = 40
_FEWEST = 8
_DEVIATIONS = 6.0
_LEAST_RISE = 0.25
# Of normally distributed numbers, the standard deviation is this many median absolute deviations.
_NORMAL = 1.4826


class SpikeWatch:
    """Holds each loss against the median of those before it.

    A spike is further above it than six standard deviations, estimated by the median absolute deviation, and than a quarter of it:
    small batches scatter, and a run that has learned its rows scatters about almost nothing.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        """Begin with the losses of an earlier attempt."""
        self._losses = deque[float](losses, maxlen=_WINDOW)

    @property
    def losses(self) -> tuple[float, ...]:
        """The losses that the next one is held against."""
        return tuple(self._losses)

    def usual_before(self, loss: float) -> float | None:
        """Take in a finite loss; give the median of those before it where it is a spike, None where it is none."""
        usual = self._usual_if_above(loss)
        self._losses.append(loss)
        return usual

    def _usual_if_above(self, loss: float) -> float | None:
        if len(self._losses) < _FEWEST:
            return None
        usual = statistics.median(self._losses)
        scatter = _NORMAL * statistics.median(abs(one - usual) for one in self._losses)
        return usual if loss - usual > max(_DEVIATIONS * scatter, _LEAST_RISE * abs(usual)) else None
