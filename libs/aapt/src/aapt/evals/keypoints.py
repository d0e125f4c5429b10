"""AKD: how far the keypoints of a made person are from those that were asked for (paper, section 3).

Keypoints come from files that the user's detector wrote (the paper: DWPose), one a video: `.npz` or `.json`
with `keypoints` [f, k, 3]: x and y in pixels, and confidence. Neither a threshold nor a normalisation is
published; ours are: both detections are at least `CONFIDENCE` sure, and pixels as they are.
"""

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aapt.evals.backbones import MissingFile

CONFIDENCE = 0.3

Keypoints = Float[Tensor, "f k 3"]


def read_keypoints(path: Path) -> Keypoints:
    """Keypoints of one video. Raises MissingFile where the file is not what it should be."""
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text())["keypoints"]
        else:
            with np.load(path) as file:
                content = file["keypoints"]
        keypoints = torch.tensor(np.asarray(content, np.float64))
    except (BadZipFile, OSError, ValueError, KeyError, TypeError) as error:
        raise MissingFile(f"{path} holds no keypoints ({error}); see aapt/evals/keypoints.py") from None
    if keypoints.ndim != 3 or keypoints.shape[-1] != 3:
        raise MissingFile(f"{path} holds keypoints {tuple(keypoints.shape)}; they should be [f, k, 3]")
    return keypoints


def average_distance(
    made: Float[Tensor, "_ _ 3"], true: Float[Tensor, "_ _ 3"], confidence: float = CONFIDENCE
) -> tuple[float | None, float]:
    """Mean distance in pixels over the keypoints that both are sure of (None: there is none), and the share
    of the true ones that were compared.

    Raises ValueError where the two differ in frames or keypoints.
    """
    if made.shape != true.shape:
        raise ValueError(f"keypoints {tuple(made.shape)} cannot be compared with {tuple(true.shape)}")
    wanted = true[..., 2] >= confidence
    compared = wanted & (made[..., 2] >= confidence)
    distance = (made[..., :2] - true[..., :2]).norm(dim=-1)[compared]
    share = float(compared.sum() / wanted.sum().clamp_min(1))
    return (float(distance.mean()) if len(distance) else None), share


def measure_keypoints(made: Path, true: Path, confidence: float = CONFIDENCE) -> dict[str, float]:
    """AKD over the videos of two folders of keypoint files that have the same names."""
    wanted = sorted(path for path in true.glob("*") if path.suffix in (".npz", ".json"))
    if not wanted:
        raise MissingFile(f"{true} holds no keypoints (.npz or .json); see aapt/evals/keypoints.py")
    distances, shares = [], []
    for path in wanted:
        file = made / path.name
        if not file.is_file():
            raise MissingFile(f"{file} is missing: the keypoints of what was made for {path}")
        try:
            distance, share = average_distance(read_keypoints(file), read_keypoints(path), confidence)
        except ValueError as error:
            raise MissingFile(f"{file} does not belong to {path}: {error}") from None
        shares.append(share)
        if distance is not None:
            distances.append(distance)
    if not distances:
        raise MissingFile(f"no keypoint of {made} is {confidence:g} sure; lower --confidence")
    return {
        "akd_px": round(sum(distances) / len(distances), 4),
        "compared_share": round(sum(shares) / len(shares), 4),
        "videos": float(len(wanted)),
    }
