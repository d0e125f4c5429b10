"""What two videos differ by, picture by picture: PSNR, SSIM, sharpness and stillness."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aapt.shapes import Video

SSIM_WINDOW_PX, SSIM_DEVIATION_PX = 11, 1.5
LUMA = (0.299, 0.587, 0.114)

PerFrame = Float[Tensor, "b f"]


def squared_error(video: Video, true: Video) -> PerFrame:
    """Mean squared error of each frame, on the scale where pictures have values in [0, 1]."""
    return ((video - true) / 2).square().mean((2, 3, 4))


def psnr_db(mean_squared_error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pictures with values in [0, 1]."""
    return -10 * mean_squared_error.clamp_min(1e-10).log10()


def ssim(video: Video, true: Video) -> PerFrame:
    """Structural similarity of the luma (Wang et al., 2004): a Gaussian window of 11x11 pixels with a
    deviation of 1.5, K1 = 0.01, K2 = 0.03, averaged where the whole window lies inside the picture.

    Raises ValueError where the pictures are smaller than the window.
    """
    if min(video.shape[-2:]) < SSIM_WINDOW_PX:
        raise ValueError(f"pictures of {tuple(video.shape[-2:])} are smaller than SSIM's window of 11x11")
    x, y = ((_luma(each) + 1) / 2 for each in (video, true))
    mean_x, mean_y, xx, yy, xy = (_blurred(each) for each in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2)
    most = (mean_x**2 + mean_y**2 + c1) * (xx - mean_x**2 + yy - mean_y**2 + c2)
    return (alike / most).mean((-2, -1))


def edge_energy(video: Video) -> PerFrame:
    """Mean squared difference of neighbouring pixels of each frame, both directions added up."""
    return sum(video.diff(dim=dim).square().mean((2, 3, 4)) for dim in (-1, -2))  # type: ignore[return-value]


def movement(video: Video) -> Float[Tensor, "b f_less_one"]:
    """Mean absolute difference of each frame to the one before, on the scale of bytes (0 to 255)."""
    return video.diff(dim=1).abs().mean((2, 3, 4)) * 127.5


def _luma(video: Video) -> Float[Tensor, "b f h w"]:
    return torch.einsum("bfchw,c->bfhw", video, torch.tensor(LUMA))


def _blurred(pictures: Float[Tensor, "b f h w"]) -> Float[Tensor, "b f _ _"]:
    height, width = pictures.shape[-2:]
    return _window(height) @ pictures @ _window(width).T


def _window(length: int) -> Float[Tensor, "_ length"]:
    """Row i weighs the pixels from i to i + 10: as a matrix it is five times as fast as a convolution."""
    offset = torch.arange(SSIM_WINDOW_PX) - SSIM_WINDOW_PX // 2
    weights = torch.softmax(-(offset**2) / (2 * SSIM_DEVIATION_PX**2), 0)
    places = range(length - SSIM_WINDOW_PX + 1)
    return torch.stack([nn.functional.pad(weights, (i, len(places) - 1 - i)) for i in places])
