"""Timelines of what exporters say, and promtool to judge the rules by them."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.monitoring import rules

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not there; apt-get install prometheus"
)
WHO = 'tenant="acme",model="road"'


@dataclass(frozen=True)
class Stretch:
    """So many minutes of play, and which share of it is bad."""

    minutes: int
    bad: float


@dataclass(frozen=True)
class Moment:
    """Whether an alert fires, so many minutes after the beginning."""

    at_min: int
    alert: str
    fires: bool


def counted(name: str, per_minute: list[tuple[int, float]]) -> dict[str, str]:
    """A counter that grows evenly in each stretch (minutes, by how much a minute)."""
    value, parts = 0.0, []
    for minutes, rate in per_minute:
        parts.append(f"{value:.6f}+{rate:.6f}x{minutes - 1}")
        value += rate * minutes
    return {"series": name, "values": " ".join(parts)}


def exported(slo: str, stretches: list[Stretch], per_minute: float, who: str = WHO) -> list[dict[str, str]]:
    """What the services export where such a share of events breaks the promise `slo`."""

    def rates(share: Any) -> list[tuple[int, float]]:
        return [(each.minutes, per_minute * share(each.bad)) for each in stretches]

    every, bad, good = rates(lambda _: 1.0), rates(lambda share: share), rates(lambda share: 1 - share)
    match slo:
        case "control_to_frame" | "first_frame":
            edge = "0.35" if slo == "control_to_frame" else "2.0"
            return [
                counted(f"{slo}_seconds_count{{{who}}}", every),
                counted(f'{slo}_seconds_bucket{{{who},le="{edge}"}}', good),
                counted(f'{slo}_seconds_bucket{{{who},le="+Inf"}}', every),
            ]
        case "frame_on_time":
            names = {"on_time": good, "late": bad, "held_up": every}
            return [counted(f'frames_total{{{who},timing="{name}"}}', each) for name, each in names.items()]
        case "session_success":
            names = {"opened": rates(lambda _: 0.5), "failed": bad, "left": rates(lambda share: 0.5 - share)}
            return [
                counted(f'session_outcomes_total{{{who},outcome="{name}"}}', each)
                for name, each in names.items()
            ]
        case "playout_continuity":
            return [
                counted(f"played_seconds_total{{{who}}}", good),
                counted(f"stalled_seconds_total{{{who}}}", bad),
            ]
    raise AssertionError(slo)


def told(name: str, at_min: int, *fires: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What an alert says then, to the letter: labels and annotations, or nothing."""
    expected = [{"exp_labels": each["labels"], "exp_annotations": each["annotations"]} for each in fires]
    return {"alertname": name, "eval_time": f"{at_min}m", "exp_alerts": expected}


def answered(expression: str, at_min: int, labels: str, value: float) -> dict[str, Any]:
    """What the only series that answers a query has then."""
    samples = [{"labels": labels, "value": value}]
    return {"expr": expression, "eval_time": f"{at_min}m", "exp_samples": samples}


def judge(
    folder: Path,
    series: list[dict[str, str]],
    moments: list[Moment],
    alerts: list[dict[str, Any]] | None = None,
    answers: list[dict[str, Any]] | None = None,
) -> str:
    """What promtool finds wrong; empty: everything is as it should be. alerts: as `told` writes them;
    answers: as `answered` does."""
    assert PROMTOOL is not None
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules.document()))
    known = {
        rule["alert"]: rule
        for group in rules.document()["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    fired = []
    for moment in moments:
        labels = {"severity": known[moment.alert]["labels"]["severity"], "tenant": "acme", "model": "road"}
        # An alert is asked for as a series: its annotations hold a figure that depends on the minute.
        asked = f'count by (severity, tenant, model) (ALERTS{{alertname="{moment.alert}"}})'
        of_it = "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
        fired.append(answered(asked, moment.at_min, of_it, 1) | ({} if moment.fires else {"exp_samples": []}))
    cases = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{rules.EVERY_S}s",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "alert_rule_test": alerts or [],
                "promql_expr_test": [*(answers or []), *fired],
            }
        ],
    }
    (folder / "cases.yaml").write_text(yaml.safe_dump(cases, sort_keys=False))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "cases.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
