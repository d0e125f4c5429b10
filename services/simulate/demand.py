"""`Player`: who comes, when, for how long, how patiently; drawn ahead, so every policy has the same."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_BEGINNING_S = 60.0


@dataclass(frozen=True)
class Clients:
    """A tenant: its share of the players, its priority, and how many of its sessions may play at once."""

    name: str
    share: float
    priority: int
    sessions: int = 0  # 0: any number


@dataclass(frozen=True)
class Demand:
    """A day of players who come to one deployment. Times of the day count from midnight."""

    hours: float = 24.0
    from_hour: float = 8.0
    peak_sessions: float = 1000.0  # offered at the peak: who would play if all were seated
    trough_share: float = 0.3  # of the peak, twelve hours away from it
    peak_hour: float = 20.0
    plays_s: float = 480.0  # mean of an exponential distribution
    bursts: int = 2  # a streamer sends players
    burst_players: int = 200
    burst_s: float = 60.0
    waits: float = 0.5  # share of those refused who take a place in the queue; the others come again
    patience_s: float = 120.0  # mean of who waits in the queue
    comes_again: float = 0.6  # how likely who was refused comes again, each time
    vanishes: float = 0.1  # share who leave without closing their session
    clients: tuple[Clients, ...] = (
        Clients("games", 0.6, 5),
        Clients("trials", 0.3, 4),
        Clients("gold", 0.1, 8),
    )

    def __post_init__(self) -> None:
        for name in ("hours", "peak_sessions", "plays_s", "burst_s", "patience_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("trough_share", "waits", "comes_again", "vanishes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.comes_again == 1:
            raise ValueError("comes_again is 1: nobody would ever give up; choose a share below it")
        if min(self.bursts, self.burst_players) < 0:
            raise ValueError(f"{self.bursts} bursts of {self.burst_players} players; both must be 0 or more")

    @property
    def ends_s(self) -> float:
        return 3600 * self.hours

    def rate_per_s(self, at_s: float) -> float:
        """Players a second at a time from the beginning, but for bursts."""
        hour = self.from_hour + at_s / 3600
        height = (1 + math.cos((hour - self.peak_hour) * math.pi / 12)) / 2
        share = self.trough_share + (1 - self.trough_share) * height
        return self.peak_sessions * share / self.plays_s


class Player(NamedTuple):
    at_s: float
    plays_s: float
    tenant: int  # index into `clients`
    waits: bool
    patience_s: float
    comebacks: int  # after so many refusals it gives up
    vanishes: bool


def players(demand: Demand, rng: np.random.Generator) -> list[Player]:
    """In the order of their coming; those who play already when it begins come in its first minute."""
    highest_per_s = demand.peak_sessions / demand.plays_s
    candidates_s = np.cumsum(
        rng.exponential(1 / highest_per_s, int(1.2 * highest_per_s * demand.ends_s) + 1000)
    )
    candidates_s = candidates_s[candidates_s < demand.ends_s]
    rates = np.array([demand.rate_per_s(at_s) for at_s in candidates_s])
    there = rng.poisson(demand.rate_per_s(0) * demand.plays_s)  # how long one stays knows no past
    times = [
        rng.uniform(0, min(_BEGINNING_S, demand.ends_s), there),
        candidates_s[rng.random(len(candidates_s)) * highest_per_s < rates],
    ]
    for begins_s in rng.uniform(0, max(1.0, demand.ends_s - demand.burst_s), demand.bursts):
        times.append(begins_s + rng.uniform(0, demand.burst_s, demand.burst_players))
    at_s = np.sort(np.concatenate(times))
    count = len(at_s)
    shares = np.array([each.share for each in demand.clients])
    columns = (
        at_s,
        rng.exponential(demand.plays_s, count),
        rng.choice(len(shares), count, p=shares / shares.sum()),
        rng.random(count) < demand.waits,
        rng.exponential(demand.patience_s, count),
        rng.geometric(1 - demand.comes_again, count) - 1,
        rng.random(count) < demand.vanishes,
    )
    return [Player(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
