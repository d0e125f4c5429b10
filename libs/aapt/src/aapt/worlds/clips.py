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

from aapt.presets import Preset

FRAMES_PER_SECOND = 24
HELD_OUT_EPISODES = 8  # the last of a folder: judged on, never trained on


class BadRecording(ValueError):
    """A recording is damaged, of another world, or too short for what is asked of it."""


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
    def load(path: Path, preset: Preset | None = None) -> "Episode":
        """Read what `save` wrote. Raises BadRecording, naming the file, where it is damaged, and where its
        pictures and keys are not those of `preset`."""
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
        if preset is not None:
            episode._check(path, preset)
        return episode

    def _check(self, path: Path, preset: Preset) -> None:
        has = (*self.frames.shape[2:0:-1], self.controls.shape[1])
        wanted = (preset.width_px, preset.height_px, preset.dit.keys)
        if has != wanted:
            raise BadRecording(
                f"{path} has pictures of {has[0]}x{has[1]} and {has[2]} keys, and {preset.name} wants"
                f" {wanted[0]}x{wanted[1]} and {wanted[2]}; name recordings of {preset.name} with --data"
            )


def episode_paths(folder: Path, how: str = "") -> list[Path]:
    """All episodes of a folder in recording order.

    Raises FileNotFoundError, naming the command that records, when there are none; how: its options.
    """
    paths = sorted(folder.glob("episode-*.npz"))
    if not paths:
        command = f"python -m aapt.worlds record road --out {folder}{how}"
        raise FileNotFoundError(f"no episodes in {folder}; record some with: {command}")
    return paths


Made = TypeVar("Made")


def each_readable(make: Callable[[Path], Made], paths: Sequence[Path]) -> Iterator[Made | None]:
    """What `make` makes of each recording, with a progress bar; None where it is damaged.

    Those are named on stderr, and counted at the end. Raises BadRecording after the last where all are.
    """
    damaged = 0
    last: BadRecording | None = None
    for path in tqdm(paths, unit="episode"):
        try:
            yield make(path)
        except BadRecording as error:
            damaged, last = damaged + 1, error
            tqdm.write(f"skipped: {error}", file=sys.stderr)
            yield None
    if last is not None and damaged == len(paths):
        raise BadRecording(f"none of {damaged} recordings can be used: {last}")
    if damaged:
        tqdm.write(f"skipped {damaged} of {len(paths)} recordings", file=sys.stderr)
