"""A dashboard as a picture, drawn from its JSON and from Prometheus' answers; by us, and not by Grafana."""

import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from PIL import Image

from services.bench.boards.prometheus import Series

# Of each panel, by its id: what answers each of its queries.
Answers = Mapping[int, Sequence[Sequence[Series]]]

_ROW = 24  # of the grid across
_INCHES = (0.56, 0.34)  # of a unit of the grid
_HEAD_IN = 0.8
_DPI = 90
_COLOURS = 96  # fewer than a picture has, more than anybody sees
_MOST_IN_LEGEND = 8
_GREY = "0.45"
_LONGEST_STEP_S = 1.5  # between two values of a series that goes on


@dataclass(frozen=True)
class Said:
    """What is written on a picture. about: what was measured; nothing: where no series came back."""

    about: str
    nothing: str


def draw(
    board: Mapping[str, Any], answers: Answers, between_s: tuple[float, float], said: Said, out: Path
) -> None:
    """Every panel at its place, with the answers between two times since 1970."""
    panels = board["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = _ROW * _INCHES[0], rows * _INCHES[1] + _HEAD_IN
    figure = plt.figure(figsize=(width, height))
    figure.text(0.012, 1 - 0.26 / height, board["title"], fontsize=15, weight="bold", va="center")
    figure.text(0.012, 1 - 0.58 / height, said.about, fontsize=8.5, color=_GREY, va="center")
    for panel in panels:
        place = panel["gridPos"]
        # Room for the title above, for the axes at the left, and for the legend below.
        left, right = place["x"] * _INCHES[0] + 0.62, (place["x"] + place["w"]) * _INCHES[0] - 0.18
        top = _HEAD_IN + place["y"] * _INCHES[1] + 0.42
        bottom = _HEAD_IN + (place["y"] + place["h"]) * _INCHES[1] - 0.72
        axes = figure.add_axes(
            (left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height)
        )
        _draw_panel(axes, panel, answers[panel["id"]], between_s, said.nothing)
    _save(figure, out)


def _draw_panel(
    axes: Axes,
    panel: Mapping[str, Any],
    answered: Sequence[Sequence[Series]],
    between_s: tuple[float, float],
    nothing: str,
) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=10, loc="left", weight="bold", pad=5)
    named = [
        (called(target.get("legendFormat", ""), series.labels), series)
        for target, found in zip(panel["targets"], answered, strict=True)
        for series in found
    ]
    shown = unit(defaults.get("unit", "none"))
    if not named:
        _say(axes, textwrap.fill(nothing, 52))
    elif panel["type"] == "stat":
        _draw_figures(axes, named, shown)
    else:
        _draw_courses(axes, named, between_s, shown)
        if (limit := _limit(defaults)) is not None:
            axes.axhline(limit, color="tab:red", linestyle="--", linewidth=1)
            axes.set_ylim(0, max(axes.get_ylim()[1], 1.1 * limit))


def _draw_courses(
    axes: Axes,
    named: list[tuple[str, Series]],
    between_s: tuple[float, float],
    shown: Callable[[float], str],
) -> None:
    began_s, ended_s = between_s
    for name, series in sorted(named, key=lambda each: each[0]):
        at_s, values = _broken(series)
        axes.plot([each - began_s for each in at_s], values, linewidth=1.2, label=name)
    known = (value for _, series in named for _, value in series.points if math.isfinite(value))
    highest = max(known, default=0.0)
    axes.set(xlim=(0, ended_s - began_s), ylim=(0, 1.1 * highest if highest > 0 else 1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.tick_params(labelsize=7.5)
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    more = len(names) - _MOST_IN_LEGEND
    if more > 0:
        handles, names = handles[:_MOST_IN_LEGEND], [*names[: _MOST_IN_LEGEND - 1], f"and {more + 1} more"]
    axes.legend(
        handles,
        names,
        fontsize=6.5,
        loc="upper left",
        bbox_to_anchor=(0, -0.14),
        ncols=4 if max(map(len, names)) < 24 else 3,
        frameon=False,
        borderaxespad=0,
    )


def _draw_figures(axes: Axes, named: list[tuple[str, Series]], shown: Callable[[float], str]) -> None:
    axes.set_axis_off()
    many = sorted(named, key=lambda each: each[0])
    across = min(3, len(many))
    down = -(-len(many) // across)
    for i, (name, series) in enumerate(many):
        x, y = (i % across + 0.5) / across, 1 - (i // across + 0.5) / down
        figure = shown(series.points[-1][1])
        axes.text(x, y + 0.02, figure, fontsize=15, ha="center", va="bottom", transform=axes.transAxes)
        axes.text(x, y, name, fontsize=8, color=_GREY, ha="center", va="top", transform=axes.transAxes)


def _say(axes: Axes, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, fontsize=8.5, color=_GREY, ha="center", va="center", transform=axes.transAxes)


def called(legend: str, labels: Mapping[str, str]) -> str:
    """What Grafana calls a series: each `{{label}}` filled in."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend) or "value"


def unit(name: str) -> Callable[[float], str]:
    """How a value is written, by Grafana's name of its unit."""
    scaled = {"watt": "W", "hertz": "Hz", "Bps": "B/s"}
    match name:
        case "s":
            return _seconds
        case "m":
            return lambda value: f"{_digits(value)} min"
        case "percentunit":
            return lambda value: f"{_digits(100 * value, 4)} %"
        case "celsius":
            return lambda value: f"{_digits(value)} °C"
        case "none":
            return lambda value: _digits(value, 4)
        case _ if name in scaled:
            return lambda value: f"{_digits(value)} {scaled[name]}"
    raise ValueError(
        f"the unit {name!r} is not known; say in services/bench/boards/drawing.py how it is written"
    )


def _seconds(value: float) -> str:
    return f"{_digits(1000 * value)} ms" if abs(value) < 1 else f"{_digits(value)} s"


def _digits(value: float, count: int = 3) -> str:
    """So many that count, and never an exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 10**count else f"{value:.{count}g}"


def _limit(defaults: Mapping[str, Any]) -> float | None:
    steps = defaults.get("thresholds", {}).get("steps", [])
    return next((step["value"] for step in steps if step.get("value")), None)


def _broken(series: Series) -> tuple[list[float], list[float]]:
    """Times and values, with no value where there was none for a while, so that no line is drawn there."""
    at_s, values = [], []
    before_s = series.points[0][0]
    for now_s, value in series.points:
        if now_s - before_s > _LONGEST_STEP_S:
            at_s.append(before_s)
            values.append(math.nan)
        at_s.append(now_s)
        values.append(value)
        before_s = now_s
    return at_s, values


def _save(figure: Any, out: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    plt.close(figure)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(out, optimize=True)
