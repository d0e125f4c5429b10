"""`Visits`: who comes when, for how long, and how they behave. Drawn before anybody comes."""

import math
import random
from dataclasses import dataclass
from enum import Enum


class Manner(Enum):
    """How a visitor behaves."""

    STEADY = "steady"
    SLOW = "slow"  # takes a pause now and then, and reads and shows nothing meanwhile
    VANISHING = "vanishing"  # its connections end, and nobody closes the session


@dataclass(frozen=True)
class Visit:
    """One player's."""

    at_s: float  # when it comes, since the test began
    stays_s: float
    manner: Manner
    seed: int


@dataclass(frozen=True)
class Expected:
    """Arrivals are a Poisson process, and lengths lognormal: most stay briefly, a few for long.

    spread: of the logarithm of a length. slow, vanishing: shares of the visitors.
    """

    per_s: float
    median_s: float
    spread: float
    slow: float
    vanishing: float

    def __post_init__(self) -> None:
        positive = {"arrivals-per-s": self.per_s, "stay-median-s": self.median_s}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise ValueError(f"--{name} is {value}; it must be above 0")
        if not 0 <= self.spread <= 3:
            raise ValueError(f"--stay-spread is {self.spread}; it must be from 0 to 3")
        if min(self.slow, self.vanishing) < 0 or self.slow + self.vanishing > 1:
            raise ValueError(
                f"--slow {self.slow} and --vanishing {self.vanishing} must be shares that add up to 1 at most"
            )

    def visits(self, for_s: float, seed: int) -> list[Visit]:
        """Those of the first `for_s` seconds, in their order. The same seed draws the same visits."""
        chance, at_s = random.Random(seed), 0.0
        drawn: list[Visit] = []
        while (at_s := at_s + chance.expovariate(self.per_s)) < for_s:
            stays_s = self.median_s * chance.lognormvariate(0.0, self.spread)
            drawn.append(Visit(at_s, stays_s, self._manner(chance.random()), chance.randrange(1, 2**31)))
        return drawn

    def _manner(self, drawn: float) -> Manner:
        if drawn < self.slow:
            return Manner.SLOW
        return Manner.VANISHING if drawn < self.slow + self.vanishing else Manner.STEADY
