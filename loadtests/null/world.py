"""`NullWorld` and `NullCodec`: what an engine and a decoder drive when only they are to be measured."""

from collections.abc import Mapping

import torch
from torch import Tensor

from aapt.presets import ROAD
from aapt.rollout import Past
from aapt.shapes import FRAMES_PER_LATENT
from livevideo.v1.session_pb2 import Model

MODEL = Model(
    name="null",
    width_px=160,
    height_px=128,
    frames_per_second=24,
    keys=ROAD.keys,
    tracks=["keys"],
)


class NullWorld:
    """Every latent is the same, as large as one of `road`, and there already."""

    window = ROAD.dit.window

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._latent = torch.zeros(ROAD.latent_shape)

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        return self._latent

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        return dict.fromkeys(controls, self._latent)

    def set_prompt(self, slot: int, prompt: str) -> None:
        """There is nothing to be said to it."""

    def resume(self, slot: int, past: Past, prompt: str, seed: int) -> None:
        """Every past leads to the same latent."""

    def extend(self, slot: int, past: Past) -> None:
        """As `resume`."""

    def close(self, slot: int) -> None:
        """It holds nothing."""


class NullCodec:
    """Every frame is the same, and there already."""

    looks_back = 0

    def __init__(self) -> None:
        self._frames = torch.zeros(FRAMES_PER_LATENT, MODEL.height_px, MODEL.width_px, 3, dtype=torch.uint8)
        self._is_first = True

    def decode(self, latent: Tensor) -> Tensor:
        """1 frame for the first latent, 4 for every other; [f, h, w, 3] uint8."""
        frames = self._frames[:1] if self._is_first else self._frames
        self._is_first = False
        return frames
