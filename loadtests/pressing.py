"""`Pressing`: keys as a person holds them: a recorded script, no hold quite as long as it was recorded."""

import random
from collections.abc import Iterator

from loadtests.player import Script

SPREAD = 0.35  # of the logarithm of a hold: two thirds lie within a factor of 1.4
_LEAST_HOLD_S = 0.04  # nobody changes keys more often


class Pressing:
    """One player's. Where in the script it begins, and how long it holds, come from `chance`."""

    def __init__(self, script: Script, chance: random.Random) -> None:
        self._script = script
        self._chance = chance

    def changes(self) -> Iterator[tuple[float, tuple[str, ...]]]:
        """Without end: when the keys change, in seconds since the beginning, and which are down then."""
        events = self._script.events
        number, at_s = self._chance.randrange(len(events)), 0.0
        while True:
            began_s, down = events[number]
            yield at_s, down
            number = (number + 1) % len(events)
            held_s = (events[number][0] - began_s) % self._script.length_s
            at_s += max(_LEAST_HOLD_S, held_s * self._chance.lognormvariate(0.0, SPREAD))
