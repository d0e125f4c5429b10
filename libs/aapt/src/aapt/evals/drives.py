"""The drives that a checkpoint is judged on: recorded on demand, under seeds that no training has seen."""

import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aapt.checkpoint import Model
from aapt.dit.attention import FIRST_INDEX
from aapt.evals.backbones import MissingFile
from aapt.presets import Preset
from aapt.shapes import FRAMES_PER_LATENT, Frames, to_video
from aapt.worlds.clips import HELD_OUT_EPISODES, Episode, episode_paths
from aapt.worlds.latents import Batch
from aapt.worlds.record import record, record_path

FIRST_SEED = 10_000  # training records from 0 on
FOLDER = Path("data/judge")  # one folder a world
SKIPPED_FRAMES = 48  # half of the drives begin at rest; two seconds later they are under way


@dataclass(frozen=True)
class Drive:
    """A recording cut to 1 + 4·k frames: what was seen, what was held, and where the player was."""

    frames: Frames
    controls: Float[Tensor, "k 4 c"]
    poses: Float[Tensor, "f p"]


def read_drive(path: Path, latents: int) -> Drive:
    """The `latents` latents of a recording that are judged."""
    recorded = Episode.load(path)
    span = slice(SKIPPED_FRAMES, SKIPPED_FRAMES + 1 + FRAMES_PER_LATENT * latents)
    controls = torch.from_numpy(recorded.controls[span][1:]).float()
    return Drive(
        torch.from_numpy(recorded.frames[span]),
        controls.unflatten(0, (latents, FRAMES_PER_LATENT)),
        torch.from_numpy(recorded.poses[span]),
    )


def speed_at_start(path: Path) -> float:
    """Of the player where the judged latents of a recording of `road` begin, in m/s."""
    return float(read_drive(path, 1).poses[0, 3])


@torch.inference_mode()
def encode_drives(model: Model, paths: list[Path], latents: int) -> Batch:
    """The judged latents of recordings, as one batch."""
    drives = [read_drive(path, latents) for path in paths]
    encoded = torch.cat([model.vae.encode(to_video(drive.frames)[None]) for drive in drives])
    return Batch(
        first=encoded[:, 0],
        latents=encoded[:, 1:],
        controls=torch.stack([drive.controls for drive in drives]),
        text=model.text.encode(model.preset.prompt).repeat(len(drives), 1, 1),
        previous=encoded[:, :-1],
        index=torch.arange(FIRST_INDEX, FIRST_INDEX + latents).repeat(len(drives), 1),
    )


def latents_in(preset: Preset, seconds: float) -> int:
    """How many latents make `seconds` of a world."""
    return max(1, round(seconds * preset.frames_per_second / FRAMES_PER_LATENT))


def find_drives(
    preset: Preset, data: Path | None, seconds: float, count: int = HELD_OUT_EPISODES
) -> list[Path]:
    """The last `count` recordings of `data`, or where it is None drives that the game records now.

    What it records is kept in `data/judge` and made again only where it is too short. Raises MissingFile
    where recordings are too short or the game is not installed.
    """
    if data is not None and count > HELD_OUT_EPISODES:
        raise MissingFile(
            f"{count} recordings of {data} are asked for, and only the last {HELD_OUT_EPISODES} were held"
            " out of training: judge fewer, or leave --data out and the game records others"
        )
    frames = SKIPPED_FRAMES + 1 + FRAMES_PER_LATENT * latents_in(preset, seconds)
    if data is None:
        return _recorded(preset, frames, count)
    paths = episode_paths(data)[-count:]
    shortest = min(_frames_in(path) for path in paths)
    if shortest < frames:
        raise MissingFile(
            f"the shortest of the judged recordings in {data} has {shortest} frames; {seconds:g} s need"
            f" {frames}: judge fewer seconds, or leave --data out and the game records longer drives"
        )
    return paths


def _recorded(preset: Preset, frames: int, count: int) -> list[Path]:
    folder = FOLDER / preset.name
    paths = [record_path(folder, FIRST_SEED + i) for i in range(count)]
    for path in paths:
        if path.exists() and _frames_in(path) < frames:
            path.unlink()
    if not all(path.exists() for path in paths):
        try:
            importlib.import_module(f"aapt.worlds.{preset.name}")
        except ModuleNotFoundError as error:
            raise MissingFile(
                f"the drives to judge are recorded by the game, which needs {error.name!r}: say"
                " `make .venv/developing` (or pip install 'aapt[worlds]'), or name recordings with --data"
            ) from None
        seconds = math.ceil(frames / preset.frames_per_second) + 1
        record(preset.name, folder, count, seconds, workers=2, first=FIRST_SEED)
    return paths


def _frames_in(path: Path) -> int:
    try:
        with np.load(path) as file:
            return len(file["controls"])  # the frames themselves take long to unpack
    except (BadZipFile, OSError, EOFError, ValueError, KeyError) as error:
        raise MissingFile(f"{path} cannot be read ({error}); delete it, and record it again") from None
