"""Recorded play on disk: one compressed file per episode, written whole or not at all."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Episode:
    """One uninterrupted recording at 24 frames/s.

    frames: [f, h, w, 3] uint8. controls: [f, k], what was held while frame f came about (row 0: nothing).
    poses: [f, p] float32, where the player was at frame f; each world says what its columns mean.
    """

    frames: np.ndarray
    controls: np.ndarray
    poses: np.ndarray
    caption: str

    def save(self, path: Path) -> None:
        """Write atomically: a recording that was interrupted leaves no half file."""
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                frames=self.frames,
                controls=self.controls,
                poses=self.poses,
                caption=np.array(self.caption),
            )
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> "Episode":
        """Read what `save` wrote."""
        with np.load(path) as file:
            return Episode(file["frames"], file["controls"], file["poses"], str(file["caption"]))


def episode_paths(folder: Path) -> list[Path]:
    """All episodes of a folder in recording order.

    Raises FileNotFoundError, naming the command that records, when there are none.
    """
    paths = sorted(folder.glob("episode-*.npz"))
    if not paths:
        raise FileNotFoundError(
            f"no episodes in {folder}; record some with: python -m aapt.worlds record road --out {folder}"
        )
    return paths


def load_episodes(folder: Path) -> Iterator[Episode]:
    """Every episode of `folder`, one at a time."""
    for path in episode_paths(folder):
        yield Episode.load(path)
