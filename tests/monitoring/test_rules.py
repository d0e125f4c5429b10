"""Alerts wake somebody when players suffer, and not otherwise; judged by the real promtool."""

import subprocess
from pathlib import Path

import pytest
import yaml

from services.monitoring import rules
from services.monitoring.panels import filled
from services.monitoring.players import PLAYERS
from services.monitoring.slos import SLOS, SPEEDS
from tests.monitoring.promtool import (
    PROMTOOL,
    WHO,
    Moment,
    Stretch,
    answered,
    exported,
    judge,
    needs_promtool,
)
from tests.monitoring.promtool import told as alert_told

pytestmark = needs_promtool

PER_MINUTE = 600.0
CALM = 'tenant="calm",model="road"'


def told(multiple: float, *, calm_min: int, bad_min: int, after_min: int) -> list[dict[str, str]]:
    """Every promise broken `multiple` times as often as its budget allows, between two calm times.

    Another tenant plays well all the while: an alert on it would be one too many.
    """
    series = []
    for slo in SLOS:
        stretches = [Stretch(calm_min, 0.0), Stretch(bad_min, multiple * slo.budget), Stretch(after_min, 0.0)]
        series += exported(slo.name, [each for each in stretches if each.minutes], PER_MINUTE)
        series += exported(slo.name, [Stretch(calm_min + bad_min + after_min, 0.0)], PER_MINUTE, CALM)
    return series


def seen(at_min: int, *, fast: bool = False, steady: bool = False, slow: bool = False) -> list[Moment]:
    """Which alerts fire then, the same for every SLO."""
    speeds = zip(SPEEDS, (fast, steady, slow), strict=True)
    return [Moment(at_min, rules.alert_name(slo, speed), fires) for speed, fires in speeds for slo in SLOS]


def test_promtool_reads_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules.document()))
    assert PROMTOOL is not None
    checked = [PROMTOOL, "check", "rules", "--lint-fatal", "rules.yaml"]
    done = subprocess.run(checked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fire_pages_within_the_hour_and_is_over_five_minutes_after(tmp_path: Path) -> None:
    moments = seen(59) + seen(61) + seen(119, fast=True, steady=True, slow=True)
    moments += [Moment(127, rules.alert_name(slo, SPEEDS[0]), False) for slo in SLOS]
    assert judge(tmp_path, told(20, calm_min=60, bad_min=60, after_min=20), moments) == ""


def test_an_alert_says_who_suffers_and_how_fast_the_budget_burns(tmp_path: Path) -> None:
    says = {
        "labels": {"severity": "page", "slo": "frame_on_time", "tenant": "acme", "model": "road"},
        "annotations": {
            "summary": "frames are later than one frame period: tenant acme, model road",
            "description": "Promised: 99.9 % of frames are sent within one frame period of their time. "
            "The budget of 30 days burns 20.0 times as fast as it may, over 1h and over 5m; "
            "at 14.4 times that is 2 % of a month's budget in an hour.",
            "runbook": "docs/runbooks.md#frameslate",
        },
    }
    series = exported("frame_on_time", [Stretch(120, 0.02)], PER_MINUTE)
    alerts = [alert_told("FramesLateFast", 119, says)]
    assert judge(tmp_path, series, [], alerts) == ""


@pytest.mark.slow
def test_a_steady_loss_pages_within_hours_but_not_as_a_fire(tmp_path: Path) -> None:
    moments = seen(59) + seen(419, steady=True, slow=True) + seen(455, slow=True)
    assert judge(tmp_path, told(8, calm_min=60, bad_min=360, after_min=40), moments) == ""


@pytest.mark.slow
def test_a_trickle_becomes_a_ticket_and_pages_nobody(tmp_path: Path) -> None:
    moments = seen(59) + seen(539, slow=True) + seen(920)
    assert judge(tmp_path, told(3, calm_min=60, bad_min=480, after_min=390), moments) == ""


@pytest.mark.slow
def test_who_lives_within_the_budget_is_left_alone(tmp_path: Path) -> None:
    series = told(0.9, calm_min=0, bad_min=400, after_min=20)
    assert judge(tmp_path, series, seen(10) + seen(70) + seen(399)) == ""


def test_a_tenant_that_hardly_plays_wakes_nobody_by_bad_luck(tmp_path: Path) -> None:
    """Half of what little happens is bad, and that is less than an alert wants in its window."""
    series = []
    for slo in SLOS:
        series += exported(slo.name, [Stretch(60, 0.5)], slo.least_bad / 60)
    assert judge(tmp_path, series, seen(59)) == ""


def test_frames_that_a_viewer_held_up_break_no_promise(tmp_path: Path) -> None:
    series = exported("frame_on_time", [Stretch(120, 0.0)], PER_MINUTE)
    assert f'frames_total{{{WHO},timing="held_up"}}' in [each["series"] for each in series]
    assert judge(tmp_path, series, seen(119)) == ""


def test_what_is_left_of_a_budget_is_told_before_an_hour_is_over_and_after(tmp_path: Path) -> None:
    """A quarter of what may be late is, and after three hours nothing more."""
    [panel] = [each for each in PLAYERS.panels if each.title == "Budgets: share left of 30 days"]
    left = f"round({filled(panel.queries[0].expr, '1m')}, 0.01)"
    series = exported("frame_on_time", [Stretch(180, 0.25 * 0.001), Stretch(190, 0.0)], PER_MINUTE)
    worth = [(40, 0.75), (170, 0.75), (365, 0.88)]
    answers = [answered(left, at_min, '{slo="frame_on_time"}', value) for at_min, value in worth]
    assert judge(tmp_path, series, [], answers=answers) == ""


def test_promtool_objects_where_an_alert_is_silent(tmp_path: Path) -> None:
    silent = told(0, calm_min=20, bad_min=20, after_min=20)
    assert "FAILED" in judge(tmp_path, silent, seen(59, fast=True))
