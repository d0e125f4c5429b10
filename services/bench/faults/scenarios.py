"""What is done to the services, as data: events in their order, and how long a pause they may make."""

from dataclasses import dataclass
from typing import TypeAlias

# In an event, a service is named by its kind ("engine": the one that the first player's session uses now;
# "valkey"). What is random is drawn from the run's own seed.


@dataclass(frozen=True)
class Wait:
    """Let so much time pass, at least and at most."""

    least_s: float
    most_s: float


@dataclass(frozen=True)
class Kill:
    """SIGKILL, all at once."""

    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Hang:
    """SIGSTOP, all at once: they are there and do nothing."""

    kinds: tuple[str, ...]


@dataclass(frozen=True)
class GoOn:
    """SIGCONT to all that hang."""


@dataclass(frozen=True)
class Drain:
    """SIGTERM; it must have ended within so long."""

    kind: str
    within_s: float = 30.0


@dataclass(frozen=True)
class Cut:
    """No byte passes between two services any more."""

    caller: str
    called: str


@dataclass(frozen=True)
class Mend:
    """All cuts are mended."""


@dataclass(frozen=True)
class Restart:
    """All that have ended are started again; nobody waits until they serve."""


@dataclass(frozen=True)
class Recover:
    """Wait until the first player has frames again."""


@dataclass(frozen=True)
class Whole:
    """Wait until everything serves again: the next fault finds a spare of each."""


Event: TypeAlias = Wait | Kill | Hang | GoOn | Drain | Cut | Mend | Restart | Recover | Whole


@dataclass(frozen=True)
class Scenario:
    """A fault, and how long the picture may stand still by what is promised; 0: nothing is promised.

    Of every scenario it is demanded that no session is lost, no frame is skipped or comes twice, and no
    acknowledged control is lost.
    """

    name: str
    events: tuple[Event, ...]
    pause_s: float = 0.0

    @property
    def kills(self) -> int:
        return sum(len(event.kinds) for event in self.events if isinstance(event, Kill))


# Where a player is when it strikes: at its first latents, or with a window that is full.
PLAYED = Wait(0.0, 2.5)
A_MOMENT = Wait(0.0, 1.0)
# Whoever watches over the processes starts them again after a while, whether anybody has recovered or not.
THEN = (Wait(2.0, 3.0), Restart(), Recover(), Wait(0.0, 1.0))


def _struck(*kinds: str) -> tuple[Event, ...]:
    return (PLAYED, Kill(kinds), *THEN)


def _hung(*kinds: str) -> tuple[Event, ...]:
    return (PLAYED, Hang(kinds), Recover(), Wait(0.5, 3.0), GoOn(), Wait(0.5, 1.5))


def _cut(caller: str, called: str, lasts: Wait = Wait(1.0, 4.0)) -> tuple[Event, ...]:
    return (PLAYED, Cut(caller, called), lasts, Mend(), Recover(), Wait(0.5, 1.5))


SCENARIOS = (
    Scenario("engine, SIGKILL", _struck("engine"), pause_s=1.0),
    Scenario("decoder, SIGKILL", _struck("decoder"), pause_s=1.0),
    Scenario("control, SIGKILL", _struck("control"), pause_s=0.5),
    Scenario("sessions, SIGKILL", _struck("sessions"), pause_s=0.5),
    Scenario(
        "Valkey, SIGKILL", (PLAYED, Kill(("valkey",)), A_MOMENT, Restart(), Wait(1.0, 2.0)), pause_s=0.5
    ),
    Scenario("engine and decoder at once, SIGKILL", _struck("engine", "decoder"), pause_s=5.0),
    Scenario(
        "engine, decoder and engine again, SIGKILL",
        (
            *(PLAYED, Kill(("engine",)), A_MOMENT, Kill(("decoder",)), Restart()),
            *(Recover(), Whole(), A_MOMENT, Kill(("engine",)), *THEN),
        ),
        pause_s=5.0,
    ),
    Scenario(
        "Valkey, SIGKILL, and away for 4 to 8 s",
        (PLAYED, Kill(("valkey",)), Wait(4.0, 8.0), Restart(), Recover(), Wait(1.0, 2.0)),
        pause_s=0.5,
    ),
    Scenario(
        "engine, SIGKILL, while Valkey is away",
        (
            PLAYED,
            Kill(("valkey",)),
            A_MOMENT,
            Kill(("engine",)),
            A_MOMENT,
            Restart(),
            Recover(),
            Wait(0.5, 1.0),
        ),
    ),
    Scenario("engine, SIGSTOP", _hung("engine"), pause_s=2.0),
    Scenario("decoder, SIGSTOP", _hung("decoder"), pause_s=2.0),
    Scenario("control, SIGSTOP", _hung("control"), pause_s=0.5),
    Scenario("sessions, SIGSTOP", _hung("sessions"), pause_s=0.5),
    Scenario(
        "Valkey, SIGSTOP for 1 to 4 s",
        (PLAYED, Hang(("valkey",)), Wait(1.0, 4.0), GoOn(), Wait(1.0, 2.0)),
        pause_s=0.5,
    ),
    Scenario("engine, SIGTERM", (PLAYED, Drain("engine"), *THEN), pause_s=1.0),
    Scenario("decoder, SIGTERM", (PLAYED, Drain("decoder"), *THEN), pause_s=1.0),
    Scenario("cut: decoder from engine", _cut("decoder", "engine"), pause_s=2.0),
    Scenario("cut: engine from sessions", _cut("engine", "sessions"), pause_s=2.0),
    Scenario(
        "cut for longer than a lease: engine from sessions",
        _cut("engine", "sessions", Wait(5.0, 8.0)),
        pause_s=2.0,
    ),
    Scenario("cut: decoder from sessions", _cut("decoder", "sessions"), pause_s=0.5),
    Scenario("cut: control from sessions", _cut("control", "sessions"), pause_s=0.5),
    Scenario("cut: sessions from Valkey", _cut("sessions", "valkey"), pause_s=0.5),
)


def named(names: list[str]) -> list[Scenario]:
    """Those whose name contains one of `names`; all where none are given. Raises ValueError."""
    for name in names:
        if not any(name in each.name for each in SCENARIOS):
            listed = "; ".join(each.name for each in SCENARIOS)
            raise ValueError(f"no scenario is called {name!r}; there are: {listed}")
    return [each for each in SCENARIOS if not names or any(name in each.name for name in names)]
