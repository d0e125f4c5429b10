"""What is committed is what is rendered; every query can be parsed, and asks for what services export."""

import json
import re
from pathlib import Path
from typing import Any

import prometheus_client
import promql_parser
import pytest

from services import telemetry
from services.engine import gpus
from services.monitoring import __main__ as command
from services.monitoring import rules, slos
from services.monitoring.boards import BOARDS, all_boards
from services.monitoring.panels import filled

ROOT = Path(__file__).parents[2]
EXPORTERS = (telemetry, gpus)
SCRAPED = {"instance", "job"}  # labels that Prometheus adds


def exported() -> dict[str, set[str]]:
    """Every series that services export or rules record, with its labels besides the scrape's own."""
    series: dict[str, set[str]] = {}
    for module in EXPORTERS:
        for metric in vars(module).values():
            if not isinstance(metric, prometheus_client.metrics.MetricWrapperBase):
                continue
            name, labels = metric._name, set(metric._labelnames)
            match metric._type:
                case "counter":
                    series[f"{name}_total"] = labels
                case "histogram":
                    series |= {
                        f"{name}_bucket": {*labels, "le"},
                        f"{name}_count": labels,
                        f"{name}_sum": labels,
                    }
                case _:
                    series[name] = labels
    recorded = {*slos.BY, "slo"}
    return series | {name: {"slo"} if "budget" in name else recorded for name in rules.recorded()}


def asked(expression: str) -> list[tuple[str, set[str]]]:
    """The series that a query names, with the labels that it is chosen and summed by. Raises ValueError."""
    found: list[tuple[str, set[str]]] = []
    sums: list[set[str]] = [set()]

    def enter(node: Any) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            sums.append(sums[-1] | set(node.modifier.labels if node.modifier else ()))
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            found.append((node.name, sums[-1] | {matcher.name for matcher in node.matchers.matchers}))

    def leave(node: Any) -> None:
        if isinstance(node, promql_parser.AggregateExpr):
            sums.pop()

    promql_parser.walk(promql_parser.parse(expression), enter, leave)
    return found


def check(expression: str) -> None:
    """Everything that a query names is there."""
    known, named = exported(), asked(expression)
    assert named or expression.startswith("vector(")
    for name, labels in named:
        assert name in known, f"{name} is exported by nobody"
        assert labels - SCRAPED <= known[name], f"{name} has no labels {labels - known[name]}"


def panel_queries() -> list[Any]:
    return [
        pytest.param(query.expr, id=f"{board.name}: {panel.title}: {query.legend}")
        for board in BOARDS
        for panel in board.panels
        for query in panel.queries
    ]


@pytest.mark.parametrize("expression", panel_queries())
def test_a_panel_asks_for_what_is_exported(expression: str) -> None:
    check(filled(expression, "1m"))


def test_rules_ask_for_what_is_exported() -> None:
    for group in rules.document()["groups"]:
        for rule in group["rules"]:
            check(rule["expr"])


def test_a_query_for_what_nobody_exports_is_told() -> None:
    with pytest.raises(AssertionError, match="nobody"):
        check("sum by (model) (rate(frames_sent_total[5m]))")
    with pytest.raises(AssertionError, match="labels"):
        check("sum by (tenant) (rate(step_seconds_count[5m]))")
    with pytest.raises(ValueError, match="parenthesis"):
        check("sum by (model) (rate(frames_total[5m])")


def test_every_metric_is_on_a_board_or_in_a_rule() -> None:
    """What nobody looks at need not be measured."""
    asked = " ".join(json.dumps(board) for board in all_boards().values()) + json.dumps(rules.document())
    bases = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported()}
    assert [name for name in sorted(bases) if name not in asked] == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_board_is_complete(board: Any) -> None:
    drawn = all_boards()[board.name]
    assert drawn["uid"] == f"livevideo-{board.name}"
    assert len(drawn["panels"]) == len(board.panels)
    assert {variable["name"] for variable in drawn["templating"]["list"]} == {"source", *board.variables}
    assert len({panel["title"] for panel in drawn["panels"]}) == len(board.panels)
    assert all(panel["description"] and panel["targets"] for panel in drawn["panels"])
    assert all(panel["options"] for panel in drawn["panels"])
    known = exported()
    assert all(label in known[metric] for label, metric in board.variables.items())


def test_what_is_committed_is_what_is_rendered() -> None:
    assert command.stale(ROOT / command.FOLDER) == []


def test_a_file_that_was_changed_by_hand_is_told(tmp_path: Path) -> None:
    for path, text in command.rendered().items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert command.stale(tmp_path) == []
    (tmp_path / "rules.yaml").write_text("groups: []\n")
    (tmp_path / "dashboards/old.json").write_text("{}")
    assert command.stale(tmp_path) == [str(tmp_path / "dashboards/old.json"), str(tmp_path / "rules.yaml")]


def test_promises_lie_on_edges_of_their_histograms() -> None:
    """Between two edges Prometheus guesses; on one it knows."""
    assert slos.CONTROL_WITHIN_S in telemetry.CONTROL_TO_FRAME._upper_bounds
    assert slos.FIRST_FRAME_WITHIN_S in telemetry.FIRST_FRAME._upper_bounds
    for edge in (slos.CONTROL_WITHIN_S, slos.FIRST_FRAME_WITHIN_S):
        assert f'le="{edge}"' in json.dumps(rules.document()).replace('\\"', '"')


def test_every_alert_has_its_runbook() -> None:
    pages = (ROOT / "docs/runbooks.md").read_text()
    headings = {line.removeprefix("## ").lower() for line in pages.splitlines() if line.startswith("## ")}
    for group in rules.document()["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["alert"] in pages
                assert rule["annotations"]["runbook"].removeprefix("docs/runbooks.md#") in headings
