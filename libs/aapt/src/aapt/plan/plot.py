"""Step and decode by the number of GPUs, as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures
from aapt.plan.cost import Plan


def plot_plans(plans: Sequence[Plan], out: Path) -> None:
    """One bar for each plan, piled up by what takes the time; what the period leaves is free."""
    figure, axis = plt.subplots(figsize=(7, 4))
    names = [str(made.hardware.gpus) for made in plans]
    below = [0.0] * len(plans)
    piles = {
        "DiT": [made.stated.step_s - made.stated.collectives_s for made in plans],
        "collectives": [made.stated.collectives_s for made in plans],
        "decode": [made.stated.decode_s for made in plans],
    }
    for name, taken_s in piles.items():
        axis.bar(names, [1e3 * s for s in taken_s], bottom=[1e3 * s for s in below], label=name)
        below = [a + b for a, b in zip(below, taken_s, strict=True)]
    axis.plot(
        names, [1e3 * made.roofline.serial_s for made in plans], "k_", markersize=24, label="at the roofline"
    )
    axis.axhline(1e3 * plans[0].period_s, color="grey", linestyle="--", label="period")
    preset, hardware = plans[0].count.preset, plans[0].hardware
    axis.set(
        title=f"{preset.name}, {preset.width_px}x{preset.height_px}, window {preset.dit.window},"
        f" efficiency {hardware.efficiency:g}",
        xlabel=f"{hardware.gpu.name} in a replica",
        ylabel="ms a latent",
    )
    axis.legend()
    figures.save(figure, out, has_grids=False)
