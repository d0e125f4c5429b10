"""Rectified flow: data at t = 0, noise at t = 1, straight paths between them (arXiv:2209.03003)."""

import torch
from jaxtyping import Float
from torch import Tensor

from aapt.shapes import Latents

Time = Float[Tensor, " b"]  # one time for a whole clip (paper, appendix B)


def per_clip(t: Time) -> Float[Tensor, "b 1 1 1 1"]:
    """`t` shaped to multiply latents."""
    return t[:, None, None, None, None]


def interpolate(clean: Latents, noise: Latents, t: Time) -> Latents:
    """The point at time `t` on the path from `clean` to `noise`."""
    return (1 - per_clip(t)) * clean + per_clip(t) * noise


def clean_estimate(noisy: Latents, predicted_velocity: Latents, t: Time) -> Latents:
    """The data that a straight step along the velocity arrives at: f(x, t) = x - t v(x, t).

    At t = 0 this is x itself, so the boundary condition of consistency models is built in; at t = 1 it is the
    one-step sample x = noise - v.
    """
    return noisy - per_clip(t) * predicted_velocity


def shift_time(u: Tensor, shift: float) -> Tensor:
    """Move times towards noise: s·u / (1 + (s - 1)·u). The paper uses s = 24; small models want 1 to 5."""
    return shift * u / (1 + (shift - 1) * u)


def time_grid(steps: int, shift: float) -> Float[Tensor, " _"]:
    """The fixed times 0 = t_0 < ... < t_steps = 1 of consistency distillation (paper: 32 steps)."""
    return shift_time(torch.linspace(0, 1, steps + 1), shift)
