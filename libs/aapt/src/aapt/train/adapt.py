"""Stage 1, diffusion adaptation: flow matching under teacher forcing and the block-causal mask.

Paper, section 2.1 and appendix B: one time for the whole clip, v = noise - x0, every latent predicted in
parallel from the clean latent before it. What is ours is said at `AdaptConfig`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aapt.checkpoint import Model
from aapt.dit.model import DiT
from aapt.evals.drift import measure_drift
from aapt.flow import Time, clean_estimate, interpolate, shift_time
from aapt.shapes import Latents
from aapt.worlds.latents import Batch, Clips


@dataclass(frozen=True)
class AdaptConfig:
    """The paper's stage is shift 24, and zero for all that follows it.

    pure_noise: share of clips at t = 1, the only time that is ever served.
    history_noise: largest deviation of noise on the recycled latents. It teaches a small model to live with
    its
      own errors before the adversarial stage does.
    own_history: share of clips whose recycled latents are the network's own one-step predictions.
    """

    clips: int = 6
    length: int = 10
    shift: float = 3.0
    pure_noise: float = 0.3
    history_noise: float = 0.0
    own_history: float = 0.0


class Adapt:
    """Mean squared error of the velocity, its weight capped where t is below one half."""

    def __init__(self, model: Model, clips: Clips, held_out: Clips, config: AdaptConfig) -> None:
        self.model = model.dit
        self._whole = model
        self._clips = clips
        self._held_out = held_out
        self._config = config

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        config = self._config
        batch = self._clips.batch(generator, config.clips, config.length)
        t = shift_time(torch.rand(config.clips, generator=generator), config.shift)
        t = torch.where(torch.rand(config.clips, generator=generator) < config.pure_noise, torch.ones(()), t)
        previous = recycled(self.model, batch, generator, config.history_noise, config.own_history)
        noise = torch.randn(batch.latents.shape, generator=generator)
        noisy = interpolate(batch.latents, noise, t)
        made = clean_estimate(noisy, self.model(noisy, previous, t, batch.text, batch.controls), t)
        # (v - v')^2 = (x - x')^2 / t^2
        error = (made - batch.latents).square().mean((1, 2, 3, 4))
        return (error * t.pow(-2).clamp_max(4)).mean(), {"clean_error": float(error.detach().mean())}

    def evaluate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        assert isinstance(model, DiT)
        return judge(self._whole, model, self._held_out, folder / f"sheet-{step:06d}.png")


@torch.no_grad()
def recycled(dit: DiT, batch: Batch, generator: torch.Generator, noise: float, own: float) -> Latents:
    """The recycled latents of a batch, worsened as `AdaptConfig` says; the first picture is spared."""
    previous = batch.previous.clone()
    chosen = torch.rand(len(previous), generator=generator) < own
    if chosen.any():
        start = torch.randn(batch.latents.shape, generator=generator)[chosen]
        t: Time = torch.ones(int(chosen.sum()))
        seen = previous[chosen]
        made = clean_estimate(start, dit(start, seen, t, batch.text[chosen], batch.controls[chosen]), t)
        previous[chosen] = torch.cat([seen[:, :1], made[:, :-1]], 1)
    strength = noise * torch.rand(previous.shape[:2], generator=generator)
    strength[:, 0] = 0
    return previous + strength[..., None, None, None] * torch.randn(previous.shape, generator=generator)


def judge(whole: Model, dit: DiT, held_out: Clips, sheet: Path) -> dict[str, float]:
    """Free rollouts of held-out clips under their true controls, in numbers and as a sheet of pictures."""
    judged = Model(whole.preset, dit.eval(), whole.vae, whole.text, whole.starts)
    places = [(i, 3) for i in range(min(6, len(held_out.episodes)))]
    numbers = measure_drift(judged, held_out.pick(places, 60), sheet)
    dit.train()
    return numbers
