"""`Scenario`: what is simulated; `Outcome`: what came of it."""

import math
from collections import Counter
from dataclasses import dataclass, field

from services.simulate.demand import Demand
from services.simulate.fleet import Latents
from services.simulate.policies import OURS, POLICIES
from services.simulate.scaling import Scaling
from services.simulate.steps import StepCost


@dataclass(frozen=True)
class Scenario:
    """One deployment and its day. Hours count from midnight, as those of the demand."""

    demand: Demand
    scaling: Scaling
    cost: StepCost
    policy: str = OURS
    start_s: float = 240.0  # from a pod's creation to its first session: machine, image, model, warm-up
    node_gpus: int = 8
    node_mtbf_h: float = 2000.0  # of a machine; 0: none fails
    repair_s: float = 300.0  # until what was on a machine that failed is started on another
    fails_at_h: tuple[float, ...] = ()  # and one machine then, for sure
    upgrade_at_h: float | None = None
    upgrade_at_once: int = 1  # engines that are away at once; the chart's maxUnavailable
    speed_spread: float = 0.03

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"there is no policy {self.policy!r}; choose one of: {', '.join(POLICIES)}")
        for name in ("start_s", "node_mtbf_h", "repair_s", "speed_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.node_gpus < 1 or self.upgrade_at_once < 1:
            raise ValueError("a machine has one GPU or more, and an upgrade takes one engine or more at once")


@dataclass
class Outcome:
    """What came of it. Every player is seated, or gave up; who was seated ended by itself, or was cut off."""

    came: int = 0
    seated: int = 0
    gave_up: int = 0  # without ever having played
    still_asking: int = 0  # at the end
    refused: Counter[str] = field(default_factory=Counter)  # answers, by reason
    waited: int = 0  # were seated from the queue
    waited_s: float = 0.0
    moved: int = 0  # by a drain, without a pause
    resumed: int = 0  # after a failure
    lost: int = 0  # found no seat in time after a failure or a drain
    preempted: int = 0
    ended: int = 0
    still_playing: int = 0
    latents: Latents = field(default_factory=Latents)
    gpu_hours: float = 0.0
    least_gpu_hours: float = 0.0
    highest_playing: int = 0
    machines_failed: int = 0
    upgrade_s: float = 0.0
    playing: list[tuple[float, int]] = field(default_factory=list)  # at each change
    seats: list[tuple[float, int, int]] = field(default_factory=list)  # at each look: engines, seats
