"""Alerts, boards and scaling: what Prometheus is given is what its own tools take."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.values import CHART
from services.simulate.scaling import Scaling
from tests.chart import schemas
from tests.chart.rendering import of_kind, rendered, template

WATCHED = ("metrics.prometheusRule.enabled=true", "metrics.dashboards.enabled=true")
HAS_FILES = pytest.mark.skipif(
    not (CHART / "files" / "rules.yaml").exists(), reason="the chart has no files/rules.yaml; make rules"
)


def promtool(rules: dict[str, object], folder: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool; apt-get install prometheus")
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    done = subprocess.run([program, "check", "rules", path], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr


@HAS_FILES
def test_alerts_arrive_as_they_were_written(tmp_path: Path) -> None:
    rule = of_kind(rendered("gpu", more=WATCHED), "PrometheusRule")["play-livevideo"]
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    promtool(rule["spec"], tmp_path)
    where = schemas.folder()
    if where is not None:
        schemas.check(rule, where)


@HAS_FILES
def test_every_board_is_a_config_map() -> None:
    boards = of_kind(rendered("gpu", more=WATCHED), "ConfigMap")
    files = {path.name: json.loads(path.read_text()) for path in (CHART / "files/dashboards").glob("*.json")}
    found = {name: json.loads(text) for each in boards.values() for name, text in each["data"].items()}
    assert found == files
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in boards.values())


@pytest.mark.skipif((CHART / "files").exists(), reason="the chart has its files")
@pytest.mark.parametrize("value", WATCHED)
def test_a_chart_without_its_files_says_so(value: str) -> None:
    done = template(CHART / "values-gpu.yaml", [value])
    assert value.removesuffix("=true") in done.stderr
    assert "make rules" in done.stderr


def timeline(tmp_path: Path, series: dict[str, str], query: str, value: float | None) -> None:
    """What promtool answers to `query` after an hour of these series. None: nothing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no promtool; apt-get install prometheus")
    samples = [] if value is None else [{"labels": "{}", "value": value}]
    expected = {"expr": query, "eval_time": "1h", "exp_samples": samples}
    inputs = [{"series": name, "values": f"{text}x60"} for name, text in series.items()]
    test = {"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]}]}
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run([program, "test", "rules", path], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("playing", "free", "engines"),
    [
        ((0, 0), (4, 4), 0.5),  # two spare seats are half an engine's
        ((3, 2), (1, 2), 2.0),  # five play, and one and two are spare: two engines, and no more
        ((4, 4), (0, 0), 2.9),  # a third one is wanted before anybody is refused
        ((5, 0), (0, 5), 1.6),
    ],
)
def test_engines_are_wanted_for_players_and_spare_seats(
    tmp_path: Path, playing: tuple[int, ...], free: tuple[int, ...], engines: float
) -> None:
    scaled = of_kind(rendered("gpu-keda"), "ScaledObject")
    query = scaled["engine"]["spec"]["triggers"][0]["metadata"]["query"]
    series = {}
    for pod, (plays, seats) in enumerate(zip(playing, free, strict=True)):
        of = f'namespace="worlds",pod="engine-{pod}",model="road"'
        series[f"seats_free{{{of}}}"] = f"{seats}+0"
        if plays:
            series[f'sessions_live{{{of},tenant="acme"}}'] = f"{plays}+0"
        series[f'seats_free{{namespace="other",pod="{pod}",model="road"}}'] = "100+0"
    timeline(tmp_path, series, query, engines)
    # What services.simulate takes for the rule is this one.
    assert Scaling().wanted(sum(playing), sum(free), len(free)) == pytest.approx(engines)


@pytest.mark.parametrize("name", ["engine", "decoder"])
def test_where_no_engine_is_read_nothing_is_wanted_and_all_stays_as_it_is(tmp_path: Path, name: str) -> None:
    trigger = of_kind(rendered("gpu-keda"), "ScaledObject")[name]["spec"]["triggers"][0]["metadata"]
    assert trigger["ignoreNullValues"] == "false"
    timeline(tmp_path, {'sessions_live{namespace="worlds",model="road"}': "3+0"}, trigger["query"], None)


def test_the_simulated_rule_has_the_defaults_of_the_chart() -> None:
    chart, simulated = yaml.safe_load((CHART / "values.yaml").read_text())["autoscaling"], Scaling()
    assert (simulated.spare_sessions, simulated.spare_percent) == (
        chart["spareSessions"],
        chart["sparePercent"],
    )
    behavior = of_kind(rendered("gpu-hpa"), "HorizontalPodAutoscaler")["engine"]["spec"]["behavior"]
    assert behavior["scaleDown"] == {
        "stabilizationWindowSeconds": simulated.scale_down_s,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": simulated.scale_down_pods, "periodSeconds": 60},
            {"type": "Percent", "value": simulated.scale_down_percent, "periodSeconds": 60},
        ],
    }


def test_the_readme_tells_the_query_for_an_adapter() -> None:
    query = of_kind(rendered("gpu-keda"), "ScaledObject")["engine"]["spec"]["triggers"][0]["metadata"][
        "query"
    ]
    assert query in (CHART / "README.md").read_text()
