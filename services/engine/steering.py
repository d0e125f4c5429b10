"""`Steering`: one session's controls as the rows of numbers that the network takes, one a video frame."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from aapt.dit.embed import CAMERA_VALUES, relative_poses
from aapt.shapes import FRAMES_PER_LATENT
from services.engine.mailbox import Turn

DEFAULT_FOV_RAD = math.pi / 3  # of a camera that was never told any

Rows = Float[Tensor, "4 k"]


class Steering(Protocol):
    """What turns of a session become, in order."""

    def rows(self, turn: Turn) -> Rows:
        """The controls of the next latent."""
        ...


class KeySteering:
    """A key that is held counts for all four frames."""

    def rows(self, turn: Turn) -> Rows:
        return torch.tensor([turn.keys] * FRAMES_PER_LATENT, dtype=torch.float32)


class CameraSteering:
    """A camera that moves evenly from the pose of the last latent to the newest one, within four frames.

    The first pose says where it stands and moves nothing: rows are relative to the frame before (paper,
    appendix G).
    """

    def __init__(self) -> None:
        self._pose: tuple[Tensor, Tensor] | None = None  # position and rotation
        self._fov_rad = DEFAULT_FOV_RAD

    def rows(self, turn: Turn) -> Rows:
        before = self._pose
        if turn.camera is not None:
            rotation = normalize(torch.tensor([*turn.camera.rotation]), dim=0)
            self._pose = torch.tensor([*turn.camera.position_m]), rotation
            self._fov_rad = turn.camera.fov_rad or self._fov_rad
        position, rotation = self._pose or (torch.zeros(3), torch.tensor([0.0, 0.0, 0.0, 1.0]))
        from_position, from_rotation = before or (position, rotation)
        if rotation @ from_rotation < 0:  # the negative is the same pose, and the shorter way there
            rotation = -rotation
        share = torch.linspace(0, 1, FRAMES_PER_LATENT + 1)[:, None]
        positions = torch.lerp(from_position, position, share)
        rotations = normalize(torch.lerp(from_rotation, rotation, share), dim=1)
        return relative_poses(positions, rotations, self._fov_rad)[1:]


def steering_by(keys: Sequence[str], tracks: Sequence[str]) -> Steering:
    """A new session's, for a model that obeys these."""
    return CameraSteering() if _has_camera(keys, tracks) else KeySteering()


def values_per_frame(keys: Sequence[str], tracks: Sequence[str]) -> int:
    """How many numbers a row has."""
    return CAMERA_VALUES if _has_camera(keys, tracks) else len(keys)


def _has_camera(keys: Sequence[str], tracks: Sequence[str]) -> bool:
    return "camera" in tracks and not keys  # a network is steered by one of them
