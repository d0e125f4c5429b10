"""Panels and boards in few words, built with Grafana's own SDK."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode, VariableRefresh

_SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
_WIDTH, _HEIGHT = 12, 8  # of a row of 24


# What the reader chose, as PromQL chooses by it.
OF_PLAYERS = 'tenant=~"$tenant",model=~"$model"'
OF_MODEL = 'model=~"$model"'
OF_REPLICA = 'replica=~"$replica"'
LATELY = "[$__rate_interval]"


def filled(expression: str, rate_interval: str) -> str:
    """A query as Grafana asks it where the reader chose everything."""
    chosen = {"$__rate_interval": rate_interval, "$tenant": ".*", "$model": ".*", "$replica": ".*"}
    for variable, value in chosen.items():
        expression = expression.replace(variable, value)
    return expression


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One picture. unit: by Grafana's names; `ratio` of 1 is `percentunit`."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str
    is_figure: bool = False  # the newest values as large figures, not a course in time
    limit: float | None = None  # beyond it something is wrong: a line


@dataclass(frozen=True)
class Board:
    """One dashboard. variables: the label values that a reader may choose, each from a metric that has it."""

    name: str
    title: str
    about: str
    panels: tuple[Panel, ...]
    variables: dict[str, str] = field(default_factory=dict)


def rate_by(by: str, metric: str, matching: str) -> str:
    """How fast a counter grows, a second."""
    return f"sum by ({by}) (rate({metric}{{{matching}}}{LATELY}))"


def quantiles(metric: str, by: str, matching: str = "", *of: float) -> tuple[Query, ...]:
    """The median, 95th and 99th percentile of a histogram, or the ones that are asked for."""
    labels = f"{{{matching}}}" if matching else ""
    return tuple(
        Query(
            f"histogram_quantile({q:g}, sum by (le, {by}) (rate({metric}_bucket{labels}{LATELY})))",
            f"p{q * 100:g} {{{{{by}}}}}",
        )
        for q in of or (0.5, 0.95, 0.99)
    )


def rendered(board: Board) -> dict[str, Any]:
    """The board as Grafana reads it from a file."""
    builder = (
        dashboard.Dashboard(f"livevideo: {board.title}")
        .uid(f"livevideo-{board.name}")
        .description(board.about)
        .tags(["livevideo"])
        .time("now-1h", "now")
        .refresh("30s")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    )
    for label, metric in board.variables.items():
        builder = builder.with_variable(
            dashboard.QueryVariable(label)
            .label(label)
            .query(f"label_values({metric}, {label})")
            .datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .multi(True)
            .all_value(".*")
        )
    for i, panel in enumerate(board.panels):
        builder = builder.with_panel(_drawn(panel, i + 1))
    encoded = JSONEncoder(sort_keys=True).encode(builder.build())
    return cast(dict[str, Any], json.loads(encoded))


def _figures() -> Any:
    return stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))


def _course(limit: float | None) -> Any:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    drawn = timeseries.Panel().min(0).legend(legend.show_legend(True).calcs([])).tooltip(tooltip)
    if limit is None:
        return drawn
    steps = [Threshold(color="transparent"), Threshold(value=limit, color="red")]
    lines = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return drawn.thresholds(thresholds).thresholds_style(lines)


def _drawn(panel: Panel, number: int) -> Any:
    drawn = _figures() if panel.is_figure else _course(panel.limit)
    drawn = (
        (drawn.id(number).title(panel.title).description(panel.about).unit(panel.unit).datasource(_SOURCE))
        .span(_WIDTH)
        .height(_HEIGHT)
    )
    for i, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + i))
        drawn = drawn.with_target(target)
    return drawn
