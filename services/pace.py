"""`Pace`: what one kind of work has taken of late."""

import statistics
from collections import deque

_MEASURED = 64  # the median is taken over this many
_TRUSTED_FROM = 8  # the first of a process are slow and say nothing


class Pace:
    """The median of the last measurements, once there are enough to be believed."""

    def __init__(self) -> None:
        self._took_s: deque[float] = deque(maxlen=_MEASURED)

    def measured(self, took_s: float) -> None:
        """Take in one piece of work."""
        self._took_s.append(took_s)

    @property
    def median_s(self) -> float | None:
        """None: not known yet."""
        return statistics.median(self._took_s) if len(self._took_s) >= _TRUSTED_FROM else None
