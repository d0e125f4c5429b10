"""Before stage 1: a bidirectional video diffusion model, which the recipe makes autoregressive.

The paper begins with one that others have trained (section 2.1). Every latent sees the whole clip; given are
the first picture and the controls, and nothing is recycled.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from aapt.checkpoint import Model
from aapt.flow import clean_estimate, interpolate, shift_time
from aapt.shapes import Latents
from aapt.train.adapt import velocity_loss
from aapt.train.chance import device_of, normal, uniform
from aapt.train.loop import Turn
from aapt.worlds.latents import Batch, Clips

JUDGED_TIME = 0.5


@dataclass(frozen=True)
class PretrainConfig:
    """One time for a whole clip, as in stage 1."""

    clips: int = 6
    length: int = 10
    shift: float = 3.0


class Pretrain:
    """Mean squared error of the velocity; the recycled channels hold the first picture, then nothing."""

    def __init__(self, model: Model, clips: Clips, held_out: Clips, config: PretrainConfig) -> None:
        self.model = model.dit
        self._clips = clips
        self._held_out = held_out
        self._config = config
        self._device = device_of(model.dit)

    @property
    def turns(self) -> tuple[Turn[Batch], ...]:
        return (Turn("network", self.model, self.learn),)

    def draw(self, generator: torch.Generator) -> Batch:
        config = self._config
        return self._clips.batch(generator, config.clips, config.length).to(self._device)

    def learn(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        config = self._config
        t = shift_time(uniform((config.clips,), generator, self._device), config.shift)
        noise = normal(batch.latents.shape, generator, self._device)
        loss = velocity_loss(
            self._made(self.model, batch, noise, t),
            batch.latents,
            t,
            is_capped=self.model.config.predicts_clean,
        )
        loss.backward()
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        """Error of the clean latents from the middle of the path, on held-out clips."""
        batch = self._held_out.batch(torch.Generator().manual_seed(0), 8, self._config.length)
        batch = batch.to(self._device)
        noise = normal(batch.latents.shape, torch.Generator().manual_seed(1), self._device)
        t = torch.full((8,), JUDGED_TIME, device=self._device)
        error = (self._made(model, batch, noise, t) - batch.latents).square().mean()
        return {"error_clean": round(float(error), 4)}

    def _made(self, model: nn.Module, batch: Batch, noise: Latents, t: torch.Tensor) -> Latents:
        noisy = interpolate(batch.latents, noise, t)
        given = torch.cat([batch.first[:, None], torch.zeros_like(batch.latents[:, 1:])], 1)
        predicted = model(noisy, given, t, batch.text, batch.controls, batch.index, is_causal=False)
        return clean_estimate(noisy, predicted, t)
