"""Recording: episodes made in parallel, each by its own seed, skipped when they exist."""

import importlib
import multiprocessing
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from aapt.worlds.clips import Episode, episode_paths


def record_path(out: Path, index: int) -> Path:
    """Where episode `index` is kept."""
    return out / f"episode-{index:05d}.npz"


def record_one(world: str, out: Path, seconds: float, how: Mapping[str, str], index: int) -> int:
    """Record episode `index` unless it is there already; returns its number of new frames."""
    path = record_path(out, index)
    if path.exists():
        return 0
    episode = importlib.import_module(f"aapt.worlds.{world}").play(index, seconds, **how)
    episode.save(path)
    return len(episode.frames)


def record(
    world: str, out: Path, episodes: int, seconds: float, workers: int, first: int = 0, **how: str
) -> None:
    """Record `episodes` episodes from number `first` on into `out`, skipping those that exist: stop and start
    as you like. how: what the world's `play` is told besides."""
    out.mkdir(parents=True, exist_ok=True)
    work = partial(record_one, world, out, seconds, how)
    with (
        multiprocessing.get_context("spawn").Pool(workers) as pool,
        tqdm(total=episodes, desc=f"recording {world}", unit="episode") as progress,
    ):
        for _ in pool.imap_unordered(work, range(first, first + episodes)):
            progress.update()


def preview(folder: Path, out: Path, count: int) -> None:
    """One PNG: each row an episode, a frame every second from left to right."""
    rows = []
    for path in episode_paths(folder)[:count]:
        frames = Episode.load(path).frames
        rows.append(np.concatenate(list(frames[: 24 * 8 : 24]), 1))
    Image.fromarray(np.concatenate(rows, 0)).save(out)
