"""Recordings that a test can make in no time."""

from pathlib import Path

import numpy as np

from aapt.worlds.clips import Episode


def record_squares(folder: Path, episodes: int, frames: int = 305) -> list[Path]:
    """A bright square that walks to the right while key 1 is held."""
    paths = []
    for number in range(episodes):
        random = np.random.default_rng(number)
        held = (random.random((frames, 4)) < 0.5).astype(np.uint8)
        seen = np.full((frames, 32, 32, 3), 40, np.uint8)
        x = 0
        for i in range(frames):
            x = (x + int(held[i, 1])) % 24
            seen[i, 12:20, x : x + 8] = (250, 200, 10)
        path = folder / f"episode-{number:05d}.npz"
        Episode(seen, held, np.zeros((frames, 1), np.float32), "a square").save(path)
        paths.append(path)
    return paths
