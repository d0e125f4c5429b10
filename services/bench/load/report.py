"""docs/load.md and its pictures, of what bench/results.json has of `make load`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures
from services.bench.load.steps import OBJECTIVES
from services.monitoring.slos import CONTROL_WITHIN_S

ABOUT = (
    "Every service is a process of its own, Valkey too, and the players share the processor with them (their"
    " part is in the sum of cores). Each step's players come a tenth of a second apart and press keys as a"
    " person does. It is held where all were seated and the SLOs of services/monitoring were kept; the first"
    " one that is not is the last. Frames in time: no more than one frame period after their place, which a"
    " stall moves. Added latency: a frame's arrival less its place on a line that no stall moves, through the"
    " frame that came earliest against it. Control to frame: since the key was due to change."
)
TITLES = {
    "road": "the shipped model, checkpoints/road",
    "null": "the control plane alone: a model that costs nothing, frames of 61,440 bytes",
}


def table(steps: Sequence[dict[str, Any]]) -> str:
    """As Markdown, a line for each step."""
    named = ["players", "seated", "frames in time", "late by two", "added latency p50, p99"]
    named += ["control to frame p50, p95, p99", "cores: engine, decoder, sessions, all", "not kept"]
    lines = [named, ["---"] * len(named)]
    for each in steps:
        cores, controls = each["cores"], ("p50", "p95", "p99")
        lines.append(
            [
                *(str(each["players"]), str(each["sessions"])),
                *(f"{100 * each['deadline_hit']:.2f} %", str(each["late_by_two"])),
                ", ".join(f"{1000 * each[f'added_latency_{p}_s']:.1f}" for p in ("p50", "p99")) + " ms",
                ", ".join(f"{1000 * each[f'control_to_frame_{p}_s']:.0f}" for p in controls) + " ms",
                ", ".join(f"{cores[kind]:.2f}" for kind in ("engine", "decoder", "sessions"))
                + f", {sum(cores.values()):.2f}",
                "; ".join(each["not_kept"]),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(kept: dict[str, Any], folder: Path) -> None:
    """load.md and load-MODEL.png into `folder`, of all that was kept."""
    parts = [
        "# How many players one machine holds",
        ABOUT,
    ]
    for model, title in TITLES.items():
        if (run := kept.get(f"load_staircase_{model}")) is None:
            continue
        plot(run["steps"], folder / f"load-{model}.png")
        parts += [
            f"## {title[0].upper()}{title[1:]}",
            f"{run['machine']}, {run['seconds']:g} s a step: **{run['held']} players** are held"
            f' (`make load ARGS="{run["command"]}"`, {run["at"][:10]}).',
            table(run["steps"]),
            f"![Frames in time, and how long a control takes, by players](load-{model}.png)",
        ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "load.md").write_text("\n\n".join(parts) + "\n")


def plot(steps: Sequence[dict[str, Any]], out: Path) -> None:
    """How many frames were in time, and how long controls took, by how many played."""
    figure, (frames, controls) = plt.subplots(1, 2, figsize=(10, 3.6))
    players = [each["players"] for each in steps]
    promised = 100 * OBJECTIVES["frame_on_time"]
    shares = [100 * each["deadline_hit"] for each in steps]
    frames.plot(players, shares, marker="o")
    frames.axhline(promised, color="tab:red", linestyle="--", label=f"promised: {promised:g} %")
    lowest = min([*shares, promised])
    frames.set(xlabel="players", ylabel="frames in time, %", ylim=(lowest - 0.1 * (100.05 - lowest), 100.05))
    for each, share in zip(steps, shares, strict=True):
        if each["not_kept"]:
            frames.annotate(
                "not held", (each["players"], share), textcoords="offset points", xytext=(-6, 8), ha="right"
            )
    for name, style in {"p50": ":", "p95": "--", "p99": "-"}.items():
        took_ms = [1000 * each[f"control_to_frame_{name}_s"] for each in steps]
        controls.plot(players, took_ms, style, marker="o", markersize=4, color="tab:blue", label=name)
    promised_ms = 1000 * CONTROL_WITHIN_S
    controls.axhline(promised_ms, color="tab:red", linestyle="--", label=f"promised: {promised_ms:.0f} ms")
    controls.set(xlabel="players", ylabel="control to frame, ms", ylim=(0, None))
    for axis in (frames, controls):
        axis.legend(loc="center left" if axis is frames else "lower right", fontsize="small")
    figures.save(figure, out, dpi=90)
