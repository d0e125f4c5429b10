"""The clocks of `make bench` measure what they say, and keep it."""

import json
from pathlib import Path

import pytest

from aapt.bench import steps
from aapt.bench.results import keep, table
from aapt.checkpoint import untrained
from aapt.evals.cost import measure_cost
from aapt.presets import DEBUG


def test_results_of_one_kind_take_the_place_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "results.json"
    keep("network", {"step_s": 1.0}, path)
    keep("crowds", {"seconds": 60}, path)
    keep("network", {"step_s": 2.0}, path)
    kept = json.loads(path.read_text())
    assert (kept["network"]["step_s"], kept["crowds"]["seconds"]) == (2.0, 60)
    assert kept["network"]["machine"]


def test_a_table_has_a_row_for_each_measurement() -> None:
    assert table("here", [("a step", "", "9 ms")]).splitlines()[-1] == "| a step |  | 9 ms |"


def test_steps_are_timed_for_every_size_and_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LATENTS_A_MINUTE", 3)
    model = untrained(DEBUG)
    assert steps.by_size(model, repeats=1).keys() == set(steps.SIZES)
    ticks: list[None] = []
    assert len(steps.by_age(model, 2, lambda: ticks.append(None))) == 2
    assert len(ticks) == 6


def test_every_loop_multiplies_as_often_as_it_evaluates() -> None:
    cost = measure_cost(untrained(DEBUG), repeats=1)
    ours = cost["recycled_gflop"]
    assert cost["diffusion_forcing_gflop"] == pytest.approx(2 * ours, rel=0.01)
    assert cost["four_steps_gflop"] == pytest.approx(5 * ours, rel=0.01)
    assert cost["no_cache_gflop"] > 2 * ours
