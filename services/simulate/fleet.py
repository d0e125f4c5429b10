"""`Replica`: an engine on a GPU, and how many of its latents come in time; `Fleet`: all of a deployment's.

Ticks are not played one by one. Between two changes an engine makes the same steps again and again, so their
number and the share of them that is late are arithmetic; work that holds up the steps behind it is a backlog
that shrinks by what each period leaves over.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from services.simulate.steps import StepCost


class State(Enum):
    STARTING = 1
    SERVING = 2
    DRAINING = 3
    GONE = 4  # for good: it has left, or its machine has failed


@dataclass
class Latents:
    """How many were to be made, and how many of them came late or not at all."""

    due: float = 0.0
    late: float = 0.0


@dataclass(eq=False)
class Replica:
    """Times are seconds from the beginning. speed: 1.1 takes a tenth longer than planned."""

    name: str
    node: int
    speed: float
    seats: int
    cost: StepCost
    latents: Latents
    created_s: float
    ready_s: float = math.inf
    gone_s: float = math.inf
    state: State = State.STARTING
    # Ids as they came; the order decides who moves first.
    sessions: dict[str, None] = field(default_factory=dict)
    _backlog_s: float = 0.0
    _settled_s: float = 0.0

    @property
    def address(self) -> str:
        return f"{self.name}:50053"

    def join(self, session_id: str, now_s: float) -> None:
        self._settle(now_s)
        self.sessions[session_id] = None

    def leave(self, session_id: str, now_s: float) -> None:
        self._settle(now_s)
        del self.sessions[session_id]

    def hold_up(self, work_s: float, now_s: float) -> None:
        """Work that all steps wait for: a session that comes, alone or with its past."""
        self._settle(now_s)
        before = self._late_ticks(self._backlog_s)
        self._backlog_s += self.speed * work_s
        self.latents.late += len(self.sessions) * (self._late_ticks(self._backlog_s) - before)

    def slack_s(self, now_s: float) -> float:
        """How long before its next deadline the next step would end, with one session more."""
        self._settle(now_s)
        step_s = self.speed * self.cost.step_s(len(self.sessions) + 1)
        return self.cost.period_s - step_s - self._backlog_s

    def end(self, now_s: float) -> None:
        self._settle(now_s)
        self.state, self.gone_s = State.GONE, now_s

    def _spare_s(self) -> float:
        return max(1e-3, self.cost.period_s - self.speed * self.cost.step_s(len(self.sessions)))

    def _late_ticks(self, backlog_s: float) -> int:
        spare_s = self._spare_s()
        return max(0, math.ceil((backlog_s - spare_s - self.cost.grace_s) / spare_s))

    def _settle(self, now_s: float) -> None:
        ticks = (now_s - self._settled_s) / self.cost.period_s
        self._settled_s = now_s
        sessions = len(self.sessions)
        if sessions:
            self.latents.due += ticks * sessions
            self.latents.late += ticks * sessions * self.cost.late_share(sessions, self.speed)
        self._backlog_s = max(0.0, self._backlog_s - ticks * self._spare_s())


class Fleet:
    """All engines that there are or were, on machines of `node_gpus` each."""

    def __init__(
        self,
        cost: StepCost,
        latents: Latents,
        rng: np.random.Generator,
        *,
        node_gpus: int,
        speed_spread: float,
    ) -> None:
        self._cost = cost
        self._latents = latents
        self._rng = rng
        self._node_gpus = node_gpus
        self._speed_spread = speed_spread
        self._names = 0
        self.replicas: dict[str, Replica] = {}  # those that are not gone
        self.known: dict[str, Replica] = {}  # all that there ever were
        self.gpu_hours = 0.0  # of those that are gone

    def start(self, now_s: float) -> Replica:
        """One more, on the first machine that has room."""
        used = [replica.node for replica in self.replicas.values()]
        node = next(i for i in range(len(used) + 1) if used.count(i) < self._node_gpus)
        speed = float(np.exp(self._speed_spread * self._rng.standard_normal()))
        replica = Replica(
            name=f"engine-{self._names:05d}",
            node=node,
            speed=speed,
            seats=self._cost.seats(speed),
            cost=self._cost,
            latents=self._latents,
            created_s=now_s,
            _settled_s=now_s,
        )
        self._names += 1
        self.replicas[replica.name] = self.known[replica.name] = replica
        return replica

    def remove(self, replica: Replica, now_s: float) -> None:
        """It is gone, and its GPU is paid until now."""
        replica.end(now_s)
        del self.replicas[replica.name]
        self.gpu_hours += (now_s - replica.created_s) / 3600

    def of(self, *states: State) -> Iterator[Replica]:
        return (replica for replica in self.replicas.values() if replica.state in states)

    def count(self, *states: State) -> int:
        return sum(1 for _ in self.of(*states))

    def first_to_go(self, now_s: float) -> Replica:
        """Whom a ReplicaSet deletes: who is not ready yet, then the youngest; of those of an age, any.

        Ages are compared by their logarithm, as Kubernetes does. Raises ValueError where there is none.
        """

        def rank(replica: Replica) -> tuple[bool, int, float]:
            age = int(math.log2(max(1.0, now_s - replica.ready_s))) if replica.ready_s < math.inf else 0
            return replica.state is State.SERVING, age, self._rng.random()

        return min(self.of(State.STARTING, State.SERVING), key=rank)
