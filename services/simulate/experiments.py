"""What is simulated for docs/scale.md: rules of scaling and placement, upgrades, and one large pool."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from services.simulate.demand import Demand
from services.simulate.policies import OURS, POLICIES
from services.simulate.scaling import Scaling
from services.simulate.scenario import Outcome, Scenario
from services.simulate.simulation import Simulation
from services.simulate.steps import StepCost

SAMPLES = 120  # of a curve
_FAILS_AT_H = 20.5  # one machine, half an hour behind the peak
_UPGRADE_AT_H = 21.0
_FEWER = 0.75


class Moment(NamedTuple):
    """hour: of the day. playing: sessions. seats: of the engines that serve."""

    hour: float
    playing: int
    seats: int


@dataclass(frozen=True)
class Run:
    """One deployment once. `setting` is what sets it apart from others of its experiment."""

    experiment: str
    setting: str
    scenario: Scenario
    seed: int

    def play(self, on_hour: Callable[[], object]) -> tuple[dict[str, Any], list[Moment]]:
        """Its numbers, to be kept, and its curve."""
        outcome = Simulation(self.scenario, self.seed).run(on_hour)
        kept = {
            "experiment": self.experiment,
            "setting": self.setting,
            "policy": self.scenario.policy,
            "seed": self.seed,
            **numbers(outcome),
        }
        return kept, curve(outcome, self.scenario)


def numbers(outcome: Outcome) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in vars(outcome).items()
        if name not in ("playing", "seats", "latents", "refused")
    }
    return kept | {"refused": dict(outcome.refused), "latents": asdict(outcome.latents)}


def curve(outcome: Outcome, scenario: Scenario) -> list[Moment]:
    """The same moments of each run."""
    sampled, playing = [], iter(outcome.playing)
    count, following = 0, next(playing, None)
    every = max(1, len(outcome.seats) // SAMPLES)
    for at_s, _, seats in outcome.seats[::every]:
        while following and following[0] <= at_s:
            count, following = following[1], next(playing, None)
        sampled.append(Moment(round(scenario.demand.from_hour + at_s / 3600, 3), count, seats))
    return sampled


def together(curves: Sequence[Sequence[Moment]]) -> dict[str, list[float]]:
    """Several deployments as one."""
    moments = list(zip(*curves, strict=True))
    return {
        "hour": [moment[0].hour for moment in moments],
        "playing": [sum(each.playing for each in moment) for moment in moments],
        "seats": [sum(each.seats for each in moment) for moment in moments],
    }


def runs(
    cost: StepCost, demand: Demand, scaling: Scaling, *, deployments: int, seeds: int, has_pool: bool
) -> Iterator[Run]:
    """All of them. Policies are compared where it matters: for some hours around the peak."""
    base = Scenario(demand, scaling, cost, fails_at_h=_within(demand, _FAILS_AT_H))
    for seed in range(deployments):
        yield Run("fleet", OURS, base, seed)
    around = _shorter(demand, 3.0)
    for policy in POLICIES:
        for seed in range(seeds):
            yield Run("policy", policy, replace(base, policy=policy, demand=around), seed)
    # Of GPUs there are enough here: what is compared is when they are started.
    fewer = replace(demand, peak_sessions=_FEWER * demand.peak_sessions)
    for spare_percent in (0.0, 10.0, 20.0, 30.0):
        rule = replace(scaling, spare_percent=spare_percent)
        yield Run("rule", f"{spare_percent:g} %", replace(base, scaling=rule, demand=fewer), 0)
    rule = replace(scaling, scale_down_percent=0.0)
    slow = replace(base, scaling=rule, demand=fewer)
    yield Run("rule", f"{scaling.spare_percent:g} %, a pod a minute goes", slow, 0)
    rule = replace(scaling, min_replicas=scaling.max_replicas)
    yield Run("rule", "all GPUs, always", replace(base, scaling=rule, demand=fewer), 0)
    if _within(demand, _UPGRADE_AT_H):
        for at_once in (2, 8):
            upgraded = replace(base, upgrade_at_h=_UPGRADE_AT_H, upgrade_at_once=at_once)
            yield Run("upgrade", f"{at_once} at once", upgraded, 0)
    if has_pool:
        yield Run("pool", "one deployment", _pool(base, deployments), 0)


def _within(demand: Demand, hour: float) -> tuple[float, ...]:
    return (hour,) if demand.from_hour <= hour < demand.from_hour + demand.hours else ()


def _shorter(demand: Demand, hours: float) -> Demand:
    """From half an hour before the peak, if that is part of it."""
    from_hour = max(demand.from_hour, demand.peak_hour - 0.5)
    left = demand.from_hour + demand.hours - from_hour
    if left < 0.5:
        return demand
    return replace(demand, from_hour=from_hour, hours=min(hours, left))


def _pool(base: Scenario, deployments: int) -> Scenario:
    """All players and GPUs in one deployment, for the hour of the peak."""
    demand, scaling = base.demand, base.scaling
    return replace(
        base,
        demand=replace(
            _shorter(demand, 1.0),
            peak_sessions=demand.peak_sessions * deployments,
            burst_players=demand.burst_players * deployments,
            bursts=1,
        ),
        scaling=replace(scaling, max_replicas=scaling.max_replicas * deployments),
        fails_at_h=(),
    )
