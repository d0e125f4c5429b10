"""Every dashboard can be drawn, whatever Prometheus answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.bench.boards.drawing import Answers, Said, called, draw, unit
from services.bench.boards.prometheus import Series
from services.monitoring.__main__ import FOLDER
from services.monitoring.boards import BOARDS

ROOT = Path(__file__).parents[2]
BETWEEN_S = (1000.0, 1030.0)
SAID = Said("Drawn by a test.", "Nothing.")


def board(name: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((ROOT / FOLDER / "dashboards" / f"{name}.json").read_text())
    return read


def answers(name: str, *series: Series) -> Answers:
    """The same series for every query."""
    return {panel["id"]: [series for _ in panel["targets"]] for panel in board(name)["panels"]}  # type: ignore[attr-defined]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("name", [each.name for each in BOARDS])
def test_every_board_is_drawn_in_little_space(name: str, tmp_path: Path) -> None:
    whole = Series({"model": "road", "slo": "frame_on_time"}, [(1000.0 + i, i % 7) for i in range(30)])
    broken = Series({"model": "maze"}, [(1000.0, 0.0), (1020.0, float("nan")), (1030.0, 1.0)])
    out = tmp_path / "drawn" / f"{name}.png"
    draw(board(name), answers(name, whole, broken), BETWEEN_S, SAID, out)
    assert out.stat().st_size < 200_000
    courses = sum(panel["type"] == "timeseries" for panel in board(name)["panels"])  # type: ignore[attr-defined]
    is_coloured = np.ptp(pixels(out), axis=2) > 60
    assert is_coloured.sum() > 200 * courses  # a line in each


def test_a_board_without_answers_says_so(tmp_path: Path) -> None:
    draw(board("gpus"), answers("gpus"), BETWEEN_S, SAID, tmp_path / "gpus.png")
    grey = np.ptp(pixels(tmp_path / "gpus.png"), axis=2).max()
    assert grey < 40  # nothing but text and frames


def test_a_series_is_called_by_its_labels() -> None:
    assert called("{{tenant}} {{ model }}: {{slo}}", {"tenant": "acme", "model": "road"}) == "acme road: "
    assert called("", {}) == "value"


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("s", 0.0421, "42.1 ms"),
        ("s", 2.0, "2 s"),
        ("s", 3599.6, "3,600 s"),
        ("percentunit", 0.999, "99.9 %"),
        ("percentunit", -149.1, "-14,910 %"),
        ("none", 12.0, "12"),
        ("Bps", 1.5, "1.5 B/s"),
    ],
)
def test_a_value_is_written_in_its_unit(name: str, value: float, written: str) -> None:
    assert unit(name)(value) == written


def test_a_unit_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="furlong"):
        unit("furlong")
    for each in BOARDS:
        for panel in each.panels:
            unit(panel.unit)
