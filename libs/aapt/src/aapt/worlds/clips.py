"""Recorded play on disk: one compressed file per episode, written whole or not at all."""

import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

FRAMES_PER_SECOND = 24
HELD_OUT_EPISODES = 8  # the last of a folder: judged on, never trained on


class BadRecording(ValueError):
    """A recording is damaged, or too short for what is asked of it."""


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
        """Read what `save` wrote. Raises BadRecording, naming the file, where it is damaged."""
        try:
            with np.load(path) as file:
                episode = Episode(file["frames"], file["controls"], file["poses"], str(file["caption"]))
        except FileNotFoundError:
            raise
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError) as error:
            raise BadRecording(f"{path} cannot be read ({error}); record it again") from None
        lengths = {len(episode.frames), len(episode.controls), len(episode.poses)}
        if len(lengths) > 1:
            raise BadRecording(
                f"{path} has {len(episode.frames)} frames, controls for {len(episode.controls)} and poses for"
                f" {len(episode.poses)}; record it again"
            )
        return episode


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


Made = TypeVar("Made")


def each_readable(make: Callable[[Path], Made], paths: Sequence[Path]) -> Iterator[Made | None]:
    """What `make` makes of each recording, with a progress bar; None where it is damaged.

    Those are named on stderr, and counted at the end.
    """
    damaged = 0
    for path in tqdm(paths, unit="episode"):
        try:
            yield make(path)
        except BadRecording as error:
            damaged += 1
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            yield None
    if damaged:
        tqdm.write(f"skipped {damaged} of {len(paths)} recordings", file=sys.stderr)
