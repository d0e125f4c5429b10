"""`MotionRegressor`: how the camera moved over one latent, read off its frames alone.

It is trained on real recordings (`motion_training.py`) and shipped beside the network as
`motion.safetensors`. Its own error on recordings that it was not trained on is written into the file: no
score that it gives is worth more than that.
"""

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aapt.evals.backbones import MissingFile
from aapt.shapes import FRAMES_PER_LATENT

FRAMES_SEEN = 1 + FRAMES_PER_LATENT
FILE = "motion.safetensors"

Windows = Float[Tensor, "b 5 3 h w"]  # the frame before a latent, then its four; values in [-1, 1]
Motion = Float[Tensor, "b 3"]  # rotation to the left in degrees, metres forward, metres to the right


@dataclass(frozen=True)
class MotionError:
    """Mean error of a regressor on recordings that it was not trained on."""

    rotation_deg: float
    translation_m: float


class MotionRegressor(nn.Module):
    """A small convolutional network. Its last hidden layer serves as features for a Fréchet distance."""

    scale: Tensor
    FEATURES = 64

    def __init__(self, height_px: int, width_px: int) -> None:
        super().__init__()
        self.size_px = (height_px, width_px)
        widths = (48, 64, 64, 96)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * 3 * FRAMES_SEEN, widths[0], 3, padding=1),
        ]
        for narrow, wide in pairwise(widths):
            layers += [nn.SiLU(), nn.Conv2d(narrow, wide, 3, stride=2, padding=1)]
        self.see = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(widths[-1], 16, 1), nn.SiLU())
        # Kept as a map: a turn is told by where in the picture things move.
        cells = math.ceil(height_px / 16) * math.ceil(width_px / 16)
        self.gather = nn.Sequential(nn.Linear(16 * cells, self.FEATURES), nn.SiLU())
        self.name = nn.Linear(self.FEATURES, 3)
        self.register_buffer("scale", torch.ones(3))

    def features(self, windows: Windows) -> Float[Tensor, "b 64"]:
        """The last hidden layer."""
        stacked = rearrange(windows, "b f c h w -> b (f c) h w").contiguous(memory_format=torch.channels_last)
        return self.gather(self.see(stacked).flatten(1))

    def motion(self, features: Float[Tensor, "b 64"]) -> Motion:
        """The motion that belongs to `features`."""
        return self.name(features) * self.scale

    def forward(self, windows: Windows) -> Motion:
        return self.motion(self.features(windows))


OTHER_POSES = ("maze",)  # worlds whose poses are not those that `true_motion` reads


def windows(video: Float[Tensor, "f 3 h w"]) -> Windows:
    """The windows of a clip of 1 + 4·k frames, one for each latent; they share its memory."""
    return video.unfold(0, FRAMES_SEEN, FRAMES_PER_LATENT).movedim(-1, 1)


def true_motion(poses: Float[Tensor, "f p"]) -> Float[Tensor, "k 3"]:
    """The motion over each latent of a clip of 1 + 4·k poses (x, y in metres, heading in radians: 0 looks
    along +y), seen from the pose before it."""
    x, y, heading = poses[::FRAMES_PER_LATENT, :3].double().unbind(-1)
    turned = (heading.diff() + math.pi) % (2 * math.pi) - math.pi
    cos, sin = heading[:-1].cos(), heading[:-1].sin()
    forward, right = y.diff() * cos - x.diff() * sin, x.diff() * cos + y.diff() * sin
    return torch.stack([turned.rad2deg(), forward, right], -1).float()


def motion_errors(named: Motion, true: Motion) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Absolute error of the rotation in degrees, and Euclidean error of the translation in metres."""
    return (named[:, 0] - true[:, 0]).abs(), (named[:, 1:] - true[:, 1:]).norm(dim=-1)


def save_regressor(regressor: MotionRegressor, error: MotionError, path: Path) -> None:
    """Write in half precision, with the regressor's own error in the file's metadata."""
    weights = {name: value.half().contiguous() for name, value in regressor.state_dict().items()}
    about = {"size_px": json.dumps(regressor.size_px), "error": json.dumps(asdict(error))}
    save_file(weights, path, metadata=about)


def load_regressor(checkpoint: Path) -> tuple[MotionRegressor, MotionError]:
    """The regressor of a checkpoint folder, and its own error.

    Raises MissingFile, naming the command that trains one, where there is none or it cannot be read.
    """
    path = checkpoint / FILE
    advice = f"train one with: python -m aapt.evals regressor --data data/road --checkpoint {checkpoint}"
    if not path.is_file():
        raise MissingFile(f"{path} is missing: the camera's motion is judged by a regressor; {advice}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            regressor = MotionRegressor(*json.loads(about["size_px"]))
            regressor.load_state_dict({name: value.float() for name, value in load_file(path).items()})
            return regressor.eval(), MotionError(**json.loads(about["error"]))
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise MissingFile(f"{path} holds no motion regressor ({error}); {advice}") from None
