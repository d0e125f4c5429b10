"""What was measured, as pictures: `python -m services.bench.plots` draws bench/results.json into docs/."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures
from aapt.bench.results import RESULTS
from services.bench.faults.scenarios import SCENARIOS
from services.bench.running import SAMPLE_S

PROMISED = 99.9  # per cent of the frames in time


def plot_crowds(outcomes: list[dict[str, Any]], out: Path) -> None:
    """How many of a crowd were seated, and how many of their frames came in time."""
    figure, (seats, frames) = plt.subplots(1, 2, figsize=(9, 3.2))
    asked = [each["asked"] for each in outcomes]
    names = [str(each) for each in asked]
    seated = [each["seated"] for each in outcomes]
    seats.bar(names, asked, color="0.85", label="refused, with a time to come again")
    seats.bar(names, seated, color="tab:green", label="seated")
    seats.set(xlabel="players", ylabel="sessions", ylim=(0, 1.35 * max(asked)))
    seats.legend(loc="upper left", fontsize="small")
    frames.plot(names, [100 * each["deadline_hit"] for each in outcomes], marker="o")
    frames.axhline(PROMISED, color="tab:red", linestyle="--", label="promised")
    frames.set(xlabel="players", ylabel="frames in time, %", ylim=(99.5, 100.02))
    frames.legend()
    figures.save(figure, out)


def plot_memory(soak: dict[str, Any], out: Path) -> None:
    """The memory of all services while sessions came and went."""
    figure, axis = plt.subplots(figsize=(7, 3))
    axis.plot([i * SAMPLE_S / 60 for i in range(len(soak["memory_mb"]))], soak["memory_mb"])
    axis.set(
        xlabel="minutes",
        ylabel="MB",
        ylim=(0, 1.2 * max(soak["memory_mb"])),
        title=f"{soak['sessions']} sessions",
    )
    figures.save(figure, out)


def plot_faults(outcomes: list[dict[str, Any]], out: Path) -> None:
    """How long the picture of the player who was struck stood still, each run a dot."""
    runs = [(each.name, each.pause_s, _pauses(outcomes, each.name)) for each in reversed(SCENARIOS)]
    runs = [(name, promised_s, pauses_s) for name, promised_s, pauses_s in runs if pauses_s]
    figure, axis = plt.subplots(figsize=(8, 0.8 + 0.3 * len(runs)))
    for place, (_, promised_s, pauses_s) in enumerate(runs):
        axis.plot(pauses_s, [place] * len(pauses_s), "o", color="tab:blue", alpha=0.3, markersize=5)
        axis.plot([promised_s], [place], "|", color="tab:red", markersize=14, markeredgewidth=2)
    axis.plot([], [], "|", color="tab:red", markersize=10, markeredgewidth=2, label="promised")
    axis.set(xscale="log", xlabel="the picture stood still, s", yticks=range(len(runs)))
    axis.set_yticklabels([name for name, _, _ in runs])
    axis.legend(loc="lower right")
    figures.save(figure, out)


def _pauses(outcomes: list[dict[str, Any]], scenario: str) -> list[float]:
    return [each["pause_s"] for each in outcomes if each["scenario"] == scenario]


def main() -> None:
    results = json.loads(RESULTS.read_text())
    if "crowds" in results:
        plot_crowds(results["crowds"]["outcomes"], Path("docs/crowds.png"))
    if "soak" in results:
        plot_memory(results["soak"], Path("docs/soak.png"))
    if "faults" in results:
        plot_faults(results["faults"]["outcomes"], Path("docs/faults.png"))


if __name__ == "__main__":
    main()
