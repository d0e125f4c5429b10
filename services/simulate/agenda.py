"""`Agenda`: what happens when; of two things at one moment, first what was written down first."""

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from services.simulate.virtual import VirtualRedis

_BEGINS_MS = 1_767_225_600_000  # a midnight: quotas count days of UTC


class Agenda:
    """Its time is that of the scripts, too. now_s: seconds from the beginning."""

    def __init__(self, redis: VirtualRedis) -> None:
        self._redis = redis
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()
        self.now_s = 0.0
        self._set_time(0.0)

    def at(self, at_s: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), act, arguments))

    def after(self, later_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_s + later_s, act, *arguments)

    def run(self, ends_s: float) -> None:
        """Everything until then."""
        while self._events and self._events[0][0] <= ends_s:
            at_s, _, act, arguments = heapq.heappop(self._events)
            self._set_time(at_s)
            act(*arguments)
        self._set_time(ends_s)

    def _set_time(self, now_s: float) -> None:
        self.now_s = now_s
        self._redis.now_ms = _BEGINS_MS + round(1000 * now_s)
