"""Before stage 1: a bidirectional video diffusion model, which the recipe makes autoregressive.

The paper begins with one that others have trained (section 2.1). Every latent sees the whole clip; given are
the first picture and the controls, and nothing is recycled.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from aapt.checkpoint import Model
from aapt.evals.drift import show
from aapt.flow import Time, clean_estimate, interpolate, shift_time, time_grid
from aapt.shapes import Latents
from aapt.train.adapt import judged_places, velocity_loss
from aapt.train.chance import device_of, normal, uniform
from aapt.train.log import Means
from aapt.train.loop import Turn
from aapt.train.parts import shares
from aapt.train.ranges import ABOVE_0, COUNT, check_ranges
from aapt.worlds.latents import Batch, Clips

JUDGED_TIME = 0.5
SHOWN_STEPS = 8  # Euler steps from noise to what a run shows of itself


@dataclass(frozen=True)
class PretrainConfig:
    """One time for a whole clip, as in stage 1."""

    clips: int = 6
    length: int = 10
    shift: float = 3.0

    def __post_init__(self) -> None:
        check_ranges(self, clips=COUNT, length=COUNT, shift=ABOVE_0)


class Pretrain:
    """Mean squared error of the velocity; the recycled channels hold the first picture, then nothing.

    micro_clips: as in `Adapt`.
    """

    def __init__(
        self, model: Model, clips: Clips, held_out: Clips, config: PretrainConfig, *, micro_clips: int = 0
    ) -> None:
        self.model = model.dit
        self._whole = model
        self._clips = clips
        self._held_out = held_out
        self._config = config
        self._micro_clips = micro_clips
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
        numbers = Means()
        for some, share in shares(self.model, config.clips, self._micro_clips):
            seen = batch.rows(some)
            loss = velocity_loss(
                self._made(self.model, seen, noise[some], t[some]),
                seen.latents,
                t[some],
                is_capped=self.model.config.predicts_clean,
            )
            (share * loss).backward()
            numbers.add(share, loss=loss)
        return numbers.means()

    @torch.no_grad()
    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        """Error of the clean latents from the middle of the path, on held-out clips; shown is what comes of
        pure noise."""
        batch = self._held_out.batch(torch.Generator().manual_seed(0), 8, self._config.length)
        batch = batch.to(self._device)
        noise = normal(batch.latents.shape, torch.Generator().manual_seed(1), self._device)
        t = torch.full((8,), JUDGED_TIME, device=self._device)
        error = (self._made(model, batch, noise, t) - batch.latents).square().mean()
        if folder is not None:
            shown = self._held_out.pick(judged_places(self._held_out), self._config.length)
            made = self._sampled(model, shown.to(self._device)).cpu()
            named = (folder / f"sheet-{step:06d}.png", folder / f"clip-{step:06d}.mp4")
            show(self._whole, shown, made, *named)
        return {"error_clean": round(float(error), 4)}

    def _sampled(self, model: nn.Module, batch: Batch) -> Latents:
        x = normal(batch.latents.shape, torch.Generator().manual_seed(2), self._device)
        grid = time_grid(SHOWN_STEPS, self._config.shift).flip(0).to(self._device)
        for t, below in pairwise(grid):
            x = x + (below - t) * self._velocity(model, batch, x, t.expand(len(x)))
        return x

    def _made(self, model: nn.Module, batch: Batch, noise: Latents, t: Time) -> Latents:
        noisy = interpolate(batch.latents, noise, t)
        return clean_estimate(noisy, self._velocity(model, batch, noisy, t), t)

    def _velocity(self, model: nn.Module, batch: Batch, noisy: Latents, t: Time) -> Latents:
        given = torch.cat([batch.first[:, None], torch.zeros_like(batch.latents[:, 1:])], 1)
        predicted: Latents = model(noisy, given, t, batch.text, batch.controls, batch.index, is_causal=False)
        return predicted
