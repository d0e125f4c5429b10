"""Curves as pictures: of training runs, and of a dream that departs from the game."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures
from aapt.evals.departure import Departure

HELD_OUT = ("psnr_db", "error_1", "error_15", "error_60", "sharpness_15")


def plot_curves(runs: list[Path], out: Path) -> None:
    """One column a run: its loss above, its held-out numbers below."""
    figure, axes = plt.subplots(2, len(runs), figsize=(4.6 * len(runs), 6), squeeze=False)
    for run, (above, below) in zip(runs, axes.T, strict=True):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for name in sorted({name for line in lines for name in line if name.endswith("loss")}):
            losses = [(line["step"], line[name]) for line in lines if name in line]
            above.plot(*zip(*losses, strict=True), label=name.removesuffix("_loss"))
        above.set(title=run.name, xlabel="step", ylabel="loss", yscale="log")
        above.legend()
        for name in HELD_OUT:
            points = [
                (line["step"], line["held_out"][name]) for line in lines if name in line.get("held_out", {})
            ]
            if points:
                below.plot(*zip(*points, strict=True), marker="o", label=name)
        below.set(xlabel="step", ylabel="held out")
        below.legend() if below.lines else below.set_axis_off()
    figures.save(figure, out)


def plot_departure(departure: Departure, numbers: dict[str, float], out: Path) -> None:
    """Four curves by the second: PSNR, sharpness, rotation error and Fréchet distance."""
    rows = departure.rows()
    figure, axes = plt.subplots(2, 2, figsize=(10, 6))
    lines = (
        ("psnr_db", "PSNR (dB)", "codec_psnr_db", "the codec's own"),
        ("sharpness_ratio", "sharpness", "codec_sharpness_ratio", "the truth through the codec"),
        (
            "rotation_error_deg",
            "rotation error (deg a latent)",
            "regressor_rotation_error_deg",
            "the regressor's own",
        ),
        ("frechet", "Fréchet distance, last 5 s", None, None),  # a floor for so few latents is not known
    )
    for axis, (name, title, reference, meaning) in zip(axes.flat, lines, strict=True):
        points = [(row["second"], row[name]) for row in rows if row[name] is not None]
        axis.plot([x for x, _ in points], [y for _, y in points])
        if reference:
            axis.axhline(numbers[reference], linestyle="--", color="grey", label=meaning)
            axis.legend()
        axis.set(title=title, xlabel="second", ylim=(0, None))
    figures.save(figure, out)
