"""Videos from folders: mp4 and the like through PyAV, or a folder of numbered pictures for each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from aapt.evals.backbones import MissingFile
from aapt.shapes import Frames

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif"}
FOLDER_FRAMES_PER_SECOND = 24.0  # of a folder of pictures, which does not say

Pictures = Float[Tensor, "b 3 h w"]  # values in [0, 1]
Scaled = Float[Tensor, "b 3 _ _"]  # the same at another size


@dataclass(frozen=True)
class Recording:
    """A video as it was read."""

    frames: Frames
    frames_per_second: float


def find_videos(folder: Path) -> list[Path]:
    """Every video of a folder, and every folder of pictures in it, by name. Raises MissingFile if none."""
    return _found(
        folder, lambda path: path.suffix.lower() in VIDEOS or path.is_dir(), "videos or folders of pictures"
    )


def find_pictures(folder: Path) -> list[Path]:
    """Every picture of a folder, by name. Raises MissingFile if there is none."""
    return _found(folder, lambda path: path.suffix.lower() in PICTURES, "pictures")


def read_video(path: Path) -> Recording:
    """A video file, or a folder of pictures. Raises MissingFile where it cannot be read."""
    if path.is_dir():
        frames = [read_picture(each) for each in find_pictures(path)]
        return Recording(torch.stack(frames), FOLDER_FRAMES_PER_SECOND)
    try:
        import av  # nobody else needs it
    except ModuleNotFoundError:
        raise MissingFile(
            f"reading {path} needs PyAV: pip install 'aapt[evals]', or give folders of pictures"
        ) from None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or FOLDER_FRAMES_PER_SECOND)
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    except (av.FFmpegError, IndexError) as error:
        raise MissingFile(f"{path} cannot be read as a video ({error}); write it again") from None
    if not pictures:
        raise MissingFile(f"{path} holds no frames; write it again")
    return Recording(torch.from_numpy(np.stack(pictures)), rate)


def read_picture(path: Path) -> Tensor:
    """A picture, [h, w, 3] uint8."""
    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB")))


def to_pictures(frames: Frames) -> Pictures:
    """Bytes as floats in [0, 1], channels first."""
    return frames.permute(0, 3, 1, 2).float() / 255


def batches(frames: Frames, size: int = 16) -> Iterator[Pictures]:
    """Frames a few at a time: a minute of video does not fit memory as floats."""
    return (to_pictures(part) for part in frames.split(size))


def resized(pictures: Pictures, height_px: int, width_px: int, mode: str = "bilinear") -> Scaled:
    """Without antialiasing, as VBench does."""
    return nn.functional.interpolate(pictures, (height_px, width_px), mode=mode, align_corners=False)


def shorter_side(pictures: Pictures, size_px: int, mode: str = "bilinear") -> Scaled:
    """Resized so that the shorter side has `size_px`."""
    height, width = pictures.shape[-2:]
    scale = size_px / min(height, width)
    return resized(pictures, max(size_px, int(height * scale)), max(size_px, int(width * scale)), mode)


def _found(folder: Path, is_wanted: Callable[[Path], bool], what: str) -> list[Path]:
    paths = sorted(path for path in folder.glob("*") if is_wanted(path))
    if not paths:
        raise MissingFile(f"{folder} holds no {what}; name a folder that does")
    return paths
