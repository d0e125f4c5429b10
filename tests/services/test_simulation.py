"""The simulator against what is known in closed form, and against itself."""

import math
from dataclasses import replace

import pytest

from services.sessions import queue
from services.simulate.demand import Clients, Demand
from services.simulate.fleet import Replica
from services.simulate.oracle import least_gpu_hours
from services.simulate.policies import OURS, POLICIES
from services.simulate.scaling import Scaling
from services.simulate.scenario import Outcome, Scenario
from services.simulate.simulation import Simulation
from services.simulate.steps import StepCost

# Four sessions an engine: their step takes 0.121 s of 0.133 s.
COST = StepCost(
    period_s=1 / 6,
    session_s=0.03,
    weights_s=0.001,
    cache_s=0.001,
    opening_s=0.001,
    resuming_s=0.1,
    slots=8,
)
PLAIN = Demand(
    hours=24,
    peak_sessions=30,
    trough_share=1.0,
    plays_s=300,
    bursts=0,
    waits=0.0,
    comes_again=0.0,
    vanishes=0.0,
    clients=(Clients("all", 1.0, 5),),
)
FIXED = Scaling(min_replicas=8, max_replicas=8)
LOSSY = Scenario(PLAIN, FIXED, COST, node_mtbf_h=0.0, speed_spread=0.0)
LIVELY = Scenario(
    Demand(
        hours=4,
        from_hour=18,
        peak_sessions=130,
        burst_players=60,
        clients=(Clients("most", 0.7, 4), Clients("few", 0.3, 8, sessions=20)),
    ),
    Scaling(spare_percent=20, max_replicas=30, scale_down_percent=10),
    COST,
    node_mtbf_h=40.0,
    fails_at_h=(20.5,),
    upgrade_at_h=21.0,
    upgrade_at_once=2,
)


def blocked(erlangs: float, seats: int) -> float:
    """Erlang's B: the share that is refused where nobody waits."""
    share = 1.0
    for n in range(1, seats + 1):
        share = erlangs * share / (n + erlangs * share)
    return share


@pytest.fixture(scope="module")
def lively() -> Outcome:
    return Simulation(LIVELY, seed=5).run()


@pytest.fixture(scope="module")
def lossy() -> Outcome:
    return Simulation(LOSSY, seed=1).run()


def test_where_nobody_waits_as_many_are_refused_as_erlang_says(lossy: Outcome) -> None:
    expected = blocked(30.0, 32)
    # Refusals come in clusters: their variance is a few times that of as many coins.
    error = math.sqrt(4 * expected / lossy.came)
    assert lossy.gave_up / lossy.came == pytest.approx(expected, abs=4 * error)
    assert error < 0.2 * expected


def test_as_many_play_as_come_times_how_long_they_stay(lossy: Outcome) -> None:
    """Little's law, with what was played counted by the latents that were due."""
    mean_playing = lossy.latents.due * COST.period_s / PLAIN.ends_s
    assert mean_playing == pytest.approx(lossy.seated / PLAIN.ends_s * PLAIN.plays_s, rel=0.05)
    by_the_curve = sum(
        count * (after - at)
        for (at, count), (after, _) in zip(
            lossy.playing, [*lossy.playing[1:], (PLAIN.ends_s, 0)], strict=True
        )
    )
    assert lossy.latents.due == pytest.approx(by_the_curve / COST.period_s, rel=1e-9)


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_is_lost_from_the_count_and_no_engine_holds_more_than_it_seats(policy: str) -> None:
    overfull: list[str] = []

    def look(engines: list[Replica]) -> None:
        overfull.extend(each.name for each in engines if len(each.sessions) > each.seats)

    outcome = Simulation(replace(LIVELY, policy=policy), seed=3, on_look=look).run()
    assert outcome.came == outcome.seated + outcome.gave_up + outcome.still_asking
    over = outcome.ended + outcome.lost + outcome.preempted + outcome.still_playing
    assert outcome.seated == over
    assert not overfull
    assert min(outcome.moved, outcome.resumed, outcome.preempted, outcome.waited, outcome.gave_up) > 0, (
        "all of it was tried"
    )
    assert sum(outcome.refused.values()) >= outcome.gave_up


def test_the_same_seed_has_the_same_outcome_to_the_last_number(lively: Outcome) -> None:
    assert Simulation(LIVELY, seed=5).run() == lively
    assert Simulation(LIVELY, seed=6).run() != lively


def test_what_is_decided_is_decided_by_the_text_that_redis_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    full = queue.ADMIT.replace(
        "local replica, address = roomiest()", "local replica, address = nil, 'engine_full'"
    )
    assert full != queue.ADMIT
    monkeypatch.setattr(queue, "ADMIT", full)
    outcome = Simulation(replace(LOSSY, demand=replace(PLAIN, hours=0.5)), seed=1).run()
    assert outcome.came > 100
    assert outcome.seated == 0


def test_a_tenant_has_no_more_sessions_than_its_quota() -> None:
    demand = replace(PLAIN, hours=1, clients=(Clients("small", 1.0, 5, sessions=7),))
    outcome = Simulation(replace(LOSSY, demand=demand), seed=1).run()
    assert outcome.highest_playing == 7
    assert outcome.refused["quota_exceeded"] == outcome.gave_up > 0


def test_a_machine_that_fails_costs_a_second_where_there_is_room_and_sessions_where_there_is_none() -> None:
    demand = replace(PLAIN, hours=1, from_hour=0, peak_sessions=8)
    roomy = replace(LOSSY, demand=demand, node_gpus=4, fails_at_h=(0.5,))
    outcome = Simulation(roomy, seed=1).run()
    assert (outcome.machines_failed, outcome.lost) == (1, 0)
    pauses = outcome.resumed * 1.0 / COST.period_s
    assert 0.5 * pauses <= outcome.latents.late <= 4 * pauses
    crowded = replace(roomy, demand=replace(demand, peak_sessions=60))
    assert Simulation(crowded, seed=1).run().lost > 5


def test_an_upgrade_moves_all_and_loses_nobody_where_one_engine_may_be_away() -> None:
    demand = replace(PLAIN, hours=2, from_hour=0, peak_sessions=20)
    outcome = Simulation(replace(LOSSY, demand=demand, upgrade_at_h=0.5), seed=1).run()
    assert outcome.moved >= 10
    assert outcome.lost == 0
    assert outcome.upgrade_s == pytest.approx(8 * LOSSY.start_s, rel=0.1)
    assert outcome.gpu_hours == pytest.approx(8 * 2, rel=0.01), "an old one goes before a new one comes"


def test_the_oracle_keeps_an_engine_where_starting_it_again_costs_more() -> None:
    playing = [(0.0, 4), (1000.0, 8), (2000.0, 4), (2100.0, 8), (3000.0, 4), (5000.0, 8)]
    least = least_gpu_hours(playing, seats=4, start_s=240, ends_s=6000)
    second = (240 + 1000) + 100 + 900 + 240 + 1000
    assert 3600 * least == pytest.approx(6000 + second)


def test_our_rule_needs_no_fewer_gpu_hours_than_the_oracle(lively: Outcome) -> None:
    assert 0 < lively.least_gpu_hours < lively.gpu_hours


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": "luck"}, "there is no policy 'luck'; choose one of: most room"),
        ({"start_s": -1.0}, "start_s is -1.0; it must be 0 or more"),
        ({"node_gpus": 0}, "a machine has one GPU or more"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_in_a_sentence(change: dict[str, object], said: str) -> None:
    assert OURS in POLICIES
    with pytest.raises(ValueError, match=said):
        replace(LOSSY, **change)  # type: ignore[arg-type]
