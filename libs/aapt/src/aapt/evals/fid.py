"""FID and FVD of folders, on a backbone that the user supplies.

The contracts of the backbones (TorchScript; values in [-1, 1]):

    fid  [b, 3, 299, 299]      -> [b, d]   Inception v3 up to its pooled features (d = 2048)
    fvd  [b, 3, 16, 224, 224]  -> [b, d]   I3D (Kinetics-400) up to its logits (d = 400)

Numbers of papers are comparable only on the very weights that the papers used.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from aapt.evals.backbones import MissingFile, load_backbone
from aapt.evals.frechet import frechet_distance
from aapt.evals.videos import find_pictures, find_videos, read_picture, read_video, to_pictures

INCEPTION_PX, I3D_PX, I3D_FRAMES = 299, 224, 16
INCEPTION = (
    "a TorchScript module [b, 3, 299, 299] in [-1, 1] -> [b, d]: Inception v3 up to its pooled features, as"
    " pytorch-fid or torchvision have it, through torch.jit.trace"
)
I3D = (
    "a TorchScript module [b, 3, 16, 224, 224] in [-1, 1] -> [b, d]: I3D trained on Kinetics-400 up to its"
    " logits, as the FVD code of StyleGAN-V has it (i3d_torchscript.pt, wrapped to these arguments)"
)


@torch.inference_mode()
def fid(made: Path, true: Path, backbone: Path) -> dict[str, float]:
    """The Fréchet distance between two folders of pictures, and how many each holds."""
    network = load_backbone(backbone, INCEPTION)

    def features(folder: Path) -> Float[Tensor, "n d"]:
        paths = tqdm(find_pictures(folder), desc=folder.name, unit="picture", leave=False)
        seen = (_scaled(to_pictures(read_picture(path)[None]), INCEPTION_PX) for path in paths)
        return torch.cat([network(picture) for picture in seen]).flatten(1)

    return _distance("fid", features(made), features(true))


@torch.inference_mode()
def fvd(made: Path, true: Path, backbone: Path) -> dict[str, float]:
    """The Fréchet distance between two folders of videos, each cut into clips of 16 frames.

    Raises MissingFile where a video is shorter.
    """
    network = load_backbone(backbone, I3D)

    def features(folder: Path) -> Float[Tensor, "n d"]:
        left = []
        for path in tqdm(find_videos(folder), desc=folder.name, unit="video", leave=False):
            frames = read_video(path).frames
            if len(frames) < I3D_FRAMES:
                raise MissingFile(f"{path} has {len(frames)} frames; FVD needs {I3D_FRAMES} or more")
            for clip in frames[: len(frames) // I3D_FRAMES * I3D_FRAMES].split(I3D_FRAMES):
                left.append(network(_scaled(to_pictures(clip), I3D_PX).transpose(0, 1)[None]))
        return torch.cat(left).flatten(1)

    return _distance("fvd", features(made), features(true))


def _scaled(pictures: Float[Tensor, "b 3 h w"], size_px: int) -> Float[Tensor, "b 3 _ _"]:
    scaled = nn.functional.interpolate(
        pictures, (size_px, size_px), mode="bilinear", align_corners=False, antialias=True
    )
    return 2 * scaled - 1


def _distance(name: str, made: Float[Tensor, "n d"], true: Float[Tensor, "m d"]) -> dict[str, float]:
    return {
        name: round(frechet_distance(made, true), 4),
        "made": float(len(made)),
        "true": float(len(true)),
    }
