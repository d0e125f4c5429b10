"""Who comes when, for how long and in what manner, and what was promised to them."""

import random
import statistics
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import pytest

from loadtests.player import Script
from loadtests.pressing import Pressing
from loadtests.visiting.promises import Promises
from loadtests.visiting.visits import Expected, Manner

EXPECTED = Expected(per_s=2.0, median_s=30.0, spread=0.8, slow=0.2, vanishing=0.1)


def test_arrivals_are_a_poisson_process() -> None:
    """Gaps of which the mean and the deviation are both one over the rate."""
    times_s = [visit.at_s for visit in EXPECTED.visits(5000, seed=1)]
    gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert statistics.mean(gaps_s) == pytest.approx(0.5, rel=0.05)
    assert statistics.stdev(gaps_s) == pytest.approx(0.5, rel=0.05)
    assert max(times_s) < 5000


def test_most_stay_briefly_and_a_few_for_long() -> None:
    stays_s = [visit.stays_s for visit in EXPECTED.visits(5000, seed=2)]
    assert statistics.median(stays_s) == pytest.approx(30, rel=0.1)
    assert statistics.mean(stays_s) > 1.25 * statistics.median(stays_s)


def test_a_share_is_slow_and_a_share_vanishes() -> None:
    manners = Counter(visit.manner for visit in EXPECTED.visits(5000, seed=3))
    shares = {manner: count / manners.total() for manner, count in manners.items()}
    assert shares[Manner.SLOW] == pytest.approx(0.2, abs=0.02)
    assert shares[Manner.VANISHING] == pytest.approx(0.1, abs=0.02)


def test_the_same_seed_draws_the_same_visits() -> None:
    assert EXPECTED.visits(100, seed=4) == EXPECTED.visits(100, seed=4) != EXPECTED.visits(100, seed=5)


@pytest.mark.parametrize(
    "wrong", [{"per_s": 0}, {"per_s": float("inf")}, {"median_s": -1}, {"spread": 9}, {"slow": 0.95}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="--"):
        replace(EXPECTED, **wrong)


def test_keys_are_held_about_as_long_as_they_were_recorded() -> None:
    script = Script.load("road-lap")
    changes = list(islice(Pressing(script, random.Random(1)).changes(), 20 * len(script.events) + 1))
    assert changes[-1][0] == pytest.approx(20 * script.length_s, rel=0.2)
    assert min(later[0] - earlier[0] for earlier, later in pairwise(changes)) >= 0.0399
    assert {down for _, down in changes} == {down for _, down in script.events}


def test_a_promise_is_broken_by_too_large_a_share_of_bad_ones() -> None:
    promises = Promises()
    promises.frames(100_000, late=90, played_s=4000, stalled_s=3)
    assert not promises.broken()
    promises.frames(1000, late=40, played_s=40, stalled_s=2)
    assert [slo.name for slo in promises.broken()] == ["frame_on_time", "playout_continuity"]


def test_one_unlucky_moment_breaks_no_promise() -> None:
    """As for the alerts: of few events a single one is a large share."""
    promises = Promises()
    promises.first_frame(3.0)
    promises.session(is_kept=False)
    for _ in range(9):
        promises.controls(0.4)
    assert not promises.broken()
    promises.controls(0.4)
    assert [slo.name for slo in promises.broken()] == ["control_to_frame"]


def test_who_is_told_to_come_again_breaks_no_promise() -> None:
    promises = Promises()
    promises.refused["engine_full"] += 50
    assert not promises.broken()
    assert promises.numbers()["refused"] == {"engine_full": 50}


def test_the_table_names_every_promise_and_what_was_kept() -> None:
    promises = Promises()
    promises.frames(1000, late=5, played_s=40, stalled_s=0)
    assert "| 99.9 % of frames are sent within one frame period of their time | 1000 frames | 99.500 % |" in (
        promises.table()
    )
    assert promises.table().count("nothing to measure") == 3
