"""`Capacity`: how many sessions a period has time for, by what steps were measured to take."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from services.pace import Pace

_LAPSE_S = 60.0
MOST_PHASES = 4  # whoever shares a step with fewer waits less; beyond that little is gained
_WORTH = 0.9  # of the seats that one phase has,
_WORTH_SLOWER, _SLOWER = 0.8, 1.1  # and so many of them if steps turn out so much slower


class Capacity:
    """What a step for so many sessions costs, and how many seats that leaves.

    phases: sessions are spread evenly over so many ticks in each period; those of one phase share a step.
    0: one, until `settle` has chosen.
    headroom: the share of the time between two ticks that a step may take.

    That a size is too slow is forgotten after a minute, or nobody would ever find out that it no longer is.
    """

    def __init__(
        self,
        *,
        period_s: float,
        phases: int,
        headroom: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.phases = phases or 1
        self._is_open = not phases
        self._period_room_s = headroom * period_s
        self._clock = clock
        self._paces: defaultdict[int, Pace] = defaultdict(Pace)  # by size
        self._measured_at_s: dict[int, float] = {}

    def measured(self, sessions: int, step_s: float) -> None:
        """Take in what one step for `sessions` took."""
        self._paces[sessions].measured(step_s)
        self._measured_at_s[sessions] = self._clock()

    def step_s(self, sessions: int) -> float:
        """What a step for so many takes. 0: nothing is known.

        Between two sizes that were measured it lies between theirs. Above the largest, a session costs what
        it does there: sessions share some of a step's cost, so this is too much rather than too little. Below
        the smallest, a step costs as much as that.
        """
        return _of_size(self._measured_s(), sessions)

    def sizes(self, slots: int) -> set[int]:
        """How many may share a step, in a full house: what should be measured before `settle`."""
        possible = range(1, MOST_PHASES + 1) if self._is_open else (self.phases,)
        return {1, *(-(-slots // phases) for phases in possible)}

    def settle(self, slots: int) -> None:
        """Choose the most phases that cost next to no seat, where their number was left open.

        Steps for fewer end earlier, and what they made is not all due at once; where a step for many costs
        what one for few does, or time is short, sharing it is worth more.
        """
        if self._is_open and self.step_s(1):
            whole = self._seats(slots, 1)
            self.phases = max(
                phases
                for phases in range(1, MOST_PHASES + 1)
                if phases == 1
                or (
                    self._seats(slots, phases) >= _WORTH * whole
                    and self._seats(slots, phases, _SLOWER) >= _WORTH_SLOWER * whole
                )
            )

    def seats(self, slots: int) -> int:
        """How many of `slots` a period has time for; one always, or a slow moment would be the last that is
        ever measured."""
        return self._seats(slots, self.phases)

    def _seats(self, slots: int, phases: int, slower: float = 1.0) -> int:
        room_s, measured_s = self._period_room_s / phases / slower, self._measured_s()
        in_phase = range(1, -(-slots // phases) + 1)
        sizes = [size for size in in_phase if _of_size(measured_s, size) <= room_s]
        return max(1, min(slots, phases * max(sizes, default=0)))

    def _measured_s(self) -> dict[int, float]:
        """What each size takes, as far as that can be believed."""
        return {
            size: took_s
            for size, pace in sorted(self._paces.items())
            if (took_s := pace.median_s) is not None and not self._has_lapsed(size, took_s)
        }

    def _has_lapsed(self, size: int, took_s: float) -> bool:
        is_old = self._clock() - self._measured_at_s[size] > _LAPSE_S
        return is_old and size > 1 and took_s > self._period_room_s / self.phases


def _of_size(measured_s: Mapping[int, float], sessions: int) -> float:
    """measured_s: by size, in rising order."""
    if not measured_s:
        return 0.0
    sizes = list(measured_s)
    if sessions > sizes[-1]:
        return measured_s[sizes[-1]] * sessions / sizes[-1]
    return float(np.interp(sessions, sizes, list(measured_s.values())))
