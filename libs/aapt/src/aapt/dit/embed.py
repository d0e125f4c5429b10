"""What goes into the network besides pixels: position, time, and the player's controls."""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from aapt.shapes import FRAMES_PER_LATENT, ControlMaps, Controls

Rope = tuple[
    Float[Tensor, "b n 1 half"], Float[Tensor, "b n 1 half"]
]  # cosine and sine of every token's angles

CAMERA_VALUES = (
    8  # translation x, y, z and rotation quaternion x, y, z, w since the last frame; field of view
)


def rope(index: Int[Tensor, "b t"], height: int, width: int, head_dim: int, theta: float = 10_000.0) -> Rope:
    """Rotary angles over three axes: the latent's index, then row and column of the token.

    The index is a plain counter, so there is no table that ends; angles are computed in double precision, so
    that an index of a million is as exact as one. Axes share the head as in Wan: d - 4·(d // 6), 2·(d // 6)
    twice.
    """
    per_side = 2 * (head_dim // 6)
    dims = (head_dim - 2 * per_side, per_side, per_side)
    rows = torch.arange(height, device=index.device)
    columns = torch.arange(width, device=index.device)
    counters = (
        repeat(index, "b t -> b (t h w)", h=height, w=width),
        repeat(rows, "h -> b (t h w)", b=len(index), t=index.shape[1], w=width),
        repeat(columns, "w -> b (t h w)", b=len(index), t=index.shape[1], h=height),
    )
    angles = []
    for counter, dim in zip(counters, dims, strict=True):
        steps = torch.arange(0, dim, 2, dtype=torch.float64, device=index.device) / dim
        angles.append(counter.double()[..., None] / theta**steps)
    angle = torch.cat(angles, -1)[:, :, None]
    return angle.cos().float(), angle.sin().float()


def rotate(x: Float[Tensor, "b n a e"], turns: Rope) -> Float[Tensor, "b n a e"]:
    """Turn neighbouring pairs of channels by each token's angles."""
    cos, sin = turns
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(x)


class TimeEmbedding(nn.Module):
    """The clip's time as a vector, and as the six vectors that modulate every block (Wan)."""

    def __init__(self, dim: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.six = nn.Linear(dim, 6 * dim)

    def forward(self, t: Float[Tensor, " b"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b 6 d"]]:
        half = self.frequencies // 2
        # Wan counts time from 0 to 1000.
        steps = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angle = 1000 * t.double()[:, None] * steps
        vector = self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(self.six.weight.dtype))
        return vector, rearrange(self.six(nn.functional.silu(vector)), "b (six d) -> b six d", six=6)


class KeyEncoder(nn.Module):
    """Keys that are held, one row for each video frame, four to a latent; the same everywhere in the
    picture."""

    def __init__(self, keys: int, channels: int) -> None:
        super().__init__()
        self.values_per_frame = keys
        self.channels = channels
        self.mlp = nn.Sequential(
            nn.Linear(FRAMES_PER_LATENT * keys, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, controls: Controls, height: int, width: int) -> ControlMaps:
        rows = controls.flatten(2).to(next(self.mlp.parameters()).dtype)
        # A single row is multiplied by another routine than several, and its last digits differ. A session is
        # to dream alone what it dreams in company, so there are always several.
        vector = self.mlp(torch.cat([rows, rows], 1))[:, : rows.shape[1]]
        return repeat(vector, "b t k -> b t k h w", h=height, w=width)


class CameraEncoder(nn.Module):
    """Camera poses as the rays of every pixel: origin and direction, relative to the frame before.

    Paper, appendix G: relative to the previous frame (values do not grow), origin and direction rather than
    Plücker moments, coordinates scaled to about unit deviation. Four frames of six channels make a latent's
    24.
    """

    channels = 6 * FRAMES_PER_LATENT
    values_per_frame = CAMERA_VALUES

    def __init__(self, metres_per_unit: float) -> None:
        super().__init__()
        self.metres_per_unit = metres_per_unit

    def forward(self, controls: Controls, height: int, width: int) -> ControlMaps:
        translation, quaternion, fov = controls.split((3, 4, 1), -1)
        tangent = (fov / 2).tan()[..., None, None, 0]
        aspect = width / height
        y = torch.linspace(1 - 1 / height, -1 + 1 / height, height, device=controls.device)[:, None]
        x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=controls.device)[None, :]
        ray = torch.stack(
            torch.broadcast_tensors(tangent * aspect * x, tangent * y, -torch.ones_like(tangent * x * y)), -1
        )
        direction = nn.functional.normalize(_turn(ray, quaternion[..., None, None, :]), dim=-1)
        origin = (translation / self.metres_per_unit)[..., None, None, :].expand_as(direction)
        return rearrange(torch.cat([origin, direction], -1), "b t f h w six -> b t (f six) h w")


def relative_poses(
    position: Float[Tensor, "f 3"], rotation: Float[Tensor, "f 4"], fov_rad: float
) -> Float[Tensor, "f 8"]:
    """Absolute camera poses of a clip as `CameraEncoder` wants them: each seen from the frame before."""
    before = torch.cat([rotation[:1], rotation[:-1]]) * torch.tensor([-1.0, -1.0, -1.0, 1.0])
    moved = torch.cat([torch.zeros(1, 3), position.diff(dim=0)])
    turned = _multiply(before, rotation)
    return torch.cat([_turn(moved, before), turned, torch.full((len(position), 1), fov_rad)], -1)


def _turn(vector: Tensor, quaternion: Tensor) -> Tensor:
    axis, w = quaternion[..., :3], quaternion[..., 3:]
    axis, vector = torch.broadcast_tensors(axis, vector)
    twice = 2 * torch.linalg.cross(axis, vector)
    return vector + w * twice + torch.linalg.cross(axis, twice)


def _multiply(p: Tensor, q: Tensor) -> Tensor:
    pv, pw, qv, qw = p[..., :3], p[..., 3:], q[..., :3], q[..., 3:]
    return torch.cat(
        [pw * qv + qw * pv + torch.linalg.cross(pv, qv), pw * qw - (pv * qv).sum(-1, keepdim=True)], -1
    )
