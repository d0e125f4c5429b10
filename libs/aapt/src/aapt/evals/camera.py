"""Camera control as the paper measures it (appendix G): how far estimated cameras are from those that were
asked for, and how the picture holds together.

    Trans  mean distance of the camera from where it should be, in the true path's unit
    Rot    mean angle between its orientation and the true one, in degrees
    Geo    share of the videos for which structure from motion found cameras, in percent
    Apr    mean cosine of each frame's CLIP vector to the video's mean vector
    Mov    mean length of the optical flow on the foreground, in pixels a frame (the paper states no unit)

Structure from motion knows neither scale nor origin nor orientation, so a path is first laid over the true
one by the similarity that fits best (Umeyama, 1991). Where a path has no extent in two directions, positions
do not tell its turn, and the orientations do.

Cameras come from files that the user's estimator wrote (the paper: VGGSfM), one a video: `.npz` or `.json`
with `positions` [f, 3] and `rotations` [f, 3, 3] (camera to world). A video whose file is missing counts as
not found.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from aapt.evals.backbones import MissingFile
from aapt.evals.vbench import Backbones, Features, Flow, moved_px
from aapt.evals.videos import find_pictures, find_videos, read_picture, read_video
from aapt.shapes import Frames

FLAT = 1e-4  # of its largest extent: less in the second direction is none


@dataclass(frozen=True)
class Cameras:
    """The cameras of a video's frames, camera to world."""

    positions: Float[Tensor, "f 3"]
    rotations: Float[Tensor, "f 3 3"]


@dataclass(frozen=True)
class Similarity:
    """x -> scale · rotation · x + translation."""

    scale: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def __call__(self, cameras: Cameras) -> Cameras:
        moved = self.scale * cameras.positions @ self.rotation.T + self.translation
        return Cameras(moved, self.rotation @ cameras.rotations)


def read_cameras(path: Path) -> Cameras:
    """Cameras of one video. Raises MissingFile where the file is not what it should be."""
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
        else:
            with np.load(path) as file:
                content = {name: file[name] for name in ("positions", "rotations")}
        positions, rotations = (
            torch.tensor(np.asarray(content[name], np.float64)) for name in ("positions", "rotations")
        )
    except (BadZipFile, OSError, ValueError, KeyError, TypeError) as error:
        raise MissingFile(f"{path} holds no cameras ({error}); see aapt/evals/camera.py") from None
    if positions.shape[1:] != (3,) or rotations.shape != (len(positions), 3, 3):
        raise MissingFile(
            f"{path} holds positions {tuple(positions.shape)} and rotations {tuple(rotations.shape)};"
            " they should be [f, 3] and [f, 3, 3]"
        )
    return Cameras(positions, rotations)


def best_similarity(cameras: Cameras, true: Cameras) -> Similarity:
    """The similarity that brings the positions closest to the true ones."""
    from_mean, to_mean = cameras.positions.mean(0), true.positions.mean(0)
    source, target = cameras.positions - from_mean, true.positions - to_mean
    covariance = target.T @ source
    extents = torch.linalg.svdvals(covariance)
    if extents[1] <= FLAT * extents[0]:
        covariance = (true.rotations @ cameras.rotations.mT).sum(0)
    u, _, v = torch.linalg.svd(covariance)
    proper = torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ v)))], dtype=u.dtype)
    rotation = u @ proper.diag() @ v
    spread = float(source.square().sum())
    scale = float((target * (source @ rotation.T)).sum()) / spread if spread > 0 else 1.0
    return Similarity(scale, rotation, to_mean - scale * rotation @ from_mean)


def camera_errors(cameras: Cameras, true: Cameras) -> tuple[float, float]:
    """Trans and Rot (degrees) of a video after the similarity that fits best.

    Raises ValueError where the two have other numbers of frames.
    """
    if len(cameras.positions) != len(true.positions):
        raise ValueError(f"{len(cameras.positions)} cameras cannot be compared with {len(true.positions)}")
    laid_over = best_similarity(cameras, true)(cameras)
    apart = (laid_over.positions - true.positions).norm(dim=-1).mean()
    between = laid_over.rotations.mT @ true.rotations
    # The sine keeps small angles exact, where the cosine of the trace alone is flat.
    sine = (between - between.mT).flatten(1).norm(dim=-1) / 8**0.5
    cosine = (between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return float(apart), float(torch.atan2(sine, cosine).rad2deg().mean())


def appearance(features: Features) -> float:
    """Apr of a video: mean cosine of its frames' unit vectors to their mean."""
    mean = nn.functional.normalize(features.mean(0), dim=0)
    return float((features @ mean).mean())


def foreground_movement(frames: Frames, masks: Float[Tensor, "f h w"], flow: Flow) -> float:
    """Mov of a video: mean length of the flow to the next frame over the pixels of the foreground.

    Raises ValueError where no pixel of any mask is foreground.
    """
    lengths = []
    for before, after, mask in zip(frames[:-1], frames[1:], masks[:-1], strict=True):
        lengths.append(moved_px(before, after, flow)[mask > 0.5])
    chosen = torch.cat(lengths)
    if not len(chosen):
        raise ValueError("no pixel of any mask is foreground (white)")
    return float(chosen.mean())


def measure_paths(estimated: Path, true: Path) -> dict[str, float]:
    """Trans, Rot and Geo of folders of camera files that have the same names."""
    trans, rot = [], []
    wanted = sorted(path for path in true.glob("*") if path.suffix in (".npz", ".json"))
    if not wanted:
        raise MissingFile(f"{true} holds no cameras (.npz or .json); see aapt/evals/camera.py")
    for path in wanted:
        found = [estimated / f"{path.stem}{suffix}" for suffix in (".npz", ".json")]
        for file in [each for each in found if each.is_file()][:1]:
            try:
                apart, angle = camera_errors(read_cameras(file), read_cameras(path))
            except ValueError as error:
                raise MissingFile(f"{file} does not belong to {path}: {error}") from None
            trans.append(apart)
            rot.append(angle)
    if not trans:
        raise MissingFile(f"{estimated} holds the cameras of none of the {len(wanted)} videos of {true}")
    return {
        "trans": sum(trans) / len(trans),
        "rot_deg": sum(rot) / len(rot),
        "geo": 100 * len(trans) / len(wanted),
    }


@torch.inference_mode()
def measure_pictures(videos: Path, backbones: Backbones, masks: Path | None) -> dict[str, float]:
    """Apr of a folder of videos, and Mov where `masks` holds a folder of pictures for each (foreground white,
    one a frame; the paper: TMO)."""
    clip = backbones.clip()
    flow = None if masks is None else backbones.load("raft")
    apr, mov = [], []
    for path in tqdm(find_videos(videos), desc="camera", unit="video", leave=False):
        frames = read_video(path).frames
        apr.append(appearance(clip(frames)))
        if masks is not None and flow is not None:
            pictures = [read_picture(each)[..., 0].float() / 255 for each in find_pictures(masks / path.stem)]
            if len(pictures) != len(frames):
                raise MissingFile(f"{masks / path.stem} holds {len(pictures)} masks for {len(frames)} frames")
            try:
                mov.append(foreground_movement(frames, torch.stack(pictures), flow))
            except ValueError as error:
                raise MissingFile(f"{masks / path.stem}: {error}") from None
    scores = {"apr": sum(apr) / len(apr)}
    if mov:
        scores["mov_px"] = sum(mov) / len(mov)
    return scores
