"""A plot on disk."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def save(figure: Any, out: Path, *, dpi: int = 80, has_grids: bool = True) -> None:
    """As the ending of `out` says; its folder is made, and the figure is done with."""
    for axis in figure.axes if has_grids else ():
        axis.grid(alpha=0.3)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=dpi)
    plt.close(figure)
