"""`Pace`: how fast a client says its controls, so that *control* never takes them for a flood."""

import asyncio
import math
import time
from collections.abc import Mapping

# What *control* says of a call to Send before its first receipt: most controls a second, and at once.
PER_S_KEY, AT_ONCE_KEY = "controls-per-s", "controls-at-once"
# *control* lets so many controls a second through where neither it nor the session says, and half as many at
# once after a silence; we stay below both, also where they arrive in heaps.
CONTROLS_PER_S = 200.0


class Pace:
    """So many at once after a silence, then so many a second."""

    def __init__(self, most_per_s: float) -> None:
        """most_per_s: what the session says; 0: it does not."""
        self._most_per_s = most_per_s or CONTROLS_PER_S
        self._due_s = -math.inf  # when the next one may go, if all go evenly
        self.learn({})

    def learn(self, said: Mapping[str, str | bytes]) -> None:
        """Stay below what *control* says it takes, from the next one on."""
        most_per_s = float(said.get(PER_S_KEY, self._most_per_s))
        self._per_s = 0.95 * most_per_s
        self._at_once = max(1.0, float(said.get(AT_ONCE_KEY, most_per_s / 2)) / 2)

    async def turn(self) -> None:
        """Returns when the next one may go."""
        now_s = time.monotonic()
        self._due_s = max(self._due_s, now_s - (self._at_once - 1) / self._per_s)
        wait_s = self._due_s - now_s
        self._due_s += 1 / self._per_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
