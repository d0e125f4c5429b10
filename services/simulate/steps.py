"""`StepCost`: what an engine's time goes to, by the cost model, and how many it seats therefore."""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from aapt.plan.cost import Hardware, Plan, plan
from aapt.plan.count import count
from aapt.plan.gpus import H100
from aapt.presets import LARGE_PRESETS, PRESETS
from services.engine.capacity import Capacity

_WARM_UP_STEPS = 8
_LAUNCH_S = 1e-3  # of a step, whoever is in it


@dataclass(frozen=True)
class StepCost:
    """One engine. Sessions that are due share a step.

    session_s: multiplying, for each. weights_s: reading the network, once for all. cache_s: reading one's own
    past, for each. opening_s: a new session's prompt and first picture. resuming_s: building up the past of
    one that comes from elsewhere, in one pass. Both hold up the step that follows.
    jitter: standard deviation of a step's logarithm. slots: for which there is memory.
    """

    period_s: float
    session_s: float
    weights_s: float
    cache_s: float
    opening_s: float
    resuming_s: float
    slots: int
    jitter: float = 0.03
    headroom: float = 0.8

    @property
    def grace_s(self) -> float:
        """A frame is in time within one frame period of its own: the promise of services/monitoring."""
        return self.period_s / 4

    def step_s(self, sessions: int) -> float:
        """What a step for so many takes, in the median."""
        if not sessions:
            return 0.0
        return _LAUNCH_S + max(sessions * self.session_s, self.weights_s + sessions * self.cache_s)

    def late_share(self, sessions: int, speed: float) -> float:
        """How likely an undisturbed step ends after its frames were due."""
        over = (self.period_s + self.grace_s) / (speed * self.step_s(sessions)) if sessions else math.inf
        return 1 - NormalDist().cdf(math.log(over) / self.jitter) if over < math.inf else 0.0

    def seats(self, speed: float) -> int:
        """What an engine finds that plays in one phase and has measured every size. speed: 1.1 is slow."""
        capacity = Capacity(period_s=self.period_s, phases=1, headroom=self.headroom, clock=lambda: 0.0)
        for sessions in range(1, self.slots + 1):
            for _ in range(_WARM_UP_STEPS):
                capacity.measured(sessions, speed * self.step_s(sessions))
        return capacity.seats(self.slots)


def by_cost_model(preset: str, precision: str = "fp8", efficiency: float = 0.5) -> StepCost:
    """One H100 that does nothing but steps: decoders have machines of their own. Raises ValueError."""
    known = PRESETS | LARGE_PRESETS
    if preset not in known:
        raise ValueError(f"there is no preset {preset!r}; choose one of: {', '.join(sorted(known))}")
    planned = plan(count(known[preset]), Hardware(H100, 1, efficiency, linear=precision, attention=precision))
    cost = of_plan(planned)
    if not cost.slots or cost.step_s(1) > cost.headroom * cost.period_s:
        raise ValueError(
            f"{preset} plays nobody in real time on one {H100.name}: a step takes {cost.step_s(1):.3f} s of "
            f"{cost.period_s:.3f} s, and memory has room for {cost.slots}; choose a smaller preset"
        )
    return cost


def of_plan(planned: Plan) -> StepCost:
    step, hardware, stated = planned.count.step, planned.hardware, planned.stated
    linear_s = step.linear_flop / hardware.gpu.flop_per_s(hardware.linear) / hardware.efficiency
    without_cache = replace(planned.count, cache=0, text_cache=0)
    weights_s = plan(without_cache, hardware).stated.memory_s
    latents = planned.count.preset.dit.window + 1
    # Causal: on average a latent of the past sees half of it.
    resuming_s = latents * (linear_s + (stated.compute_s - linear_s) / 2)
    return StepCost(
        period_s=planned.period_s,
        session_s=stated.compute_s,
        weights_s=weights_s,
        cache_s=stated.memory_s - weights_s,
        opening_s=planned.prompt_s + planned.encode_s,
        resuming_s=resuming_s,
        slots=planned.sessions_in_memory,
    )
