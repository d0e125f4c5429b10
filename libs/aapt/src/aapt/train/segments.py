"""What stage 3 plays and learns from: segments of the student's own rollouts, each beside a real clip."""

from dataclasses import dataclass, replace

import torch

from aapt.dit.model import CachePass
from aapt.rollout import Rollout
from aapt.shapes import Latents
from aapt.train.chance import normal
from aapt.worlds.latents import Batch


@dataclass(frozen=True)
class Segment:
    """What the student made of one segment, and the real clip that it is compared with, equally long.

    fake: the student's latents and its own past, without gradients. Of an extension, the first `overlap`
      latents are the end of the segment before.
    noise: what the new latents were made of.
    past: keys and values from before the segment; None: it is the first.
    """

    real: Batch
    fake: Batch
    noise: Latents
    past: CachePass | None

    def rows(self, span: slice) -> "Segment":
        """Some of the clips."""
        past = None if self.past is None else self.past.rows(span)
        return Segment(self.real.rows(span), self.fake.rows(span), self.noise[span], past)

    def to(self, device: torch.device) -> "Segment":
        """The same on `device`; the past is where the network is."""
        return replace(
            self, real=self.real.to(device), fake=self.fake.to(device), noise=self.noise.to(device)
        )


def rolled_out(rollout: Rollout, real: Batch) -> Latents:
    """What all sessions of `rollout` make under the controls of real clips."""
    slots = range(len(real.controls))
    made = []
    for i in range(real.controls.shape[1]):
        latents = rollout.step({slot: real.controls[slot, i] for slot in slots})
        made.append(torch.stack([latents[slot] for slot in slots]))
    return torch.stack(made, 1).clone()


def perturbed(batch: Batch, deviation: float, generator: torch.Generator) -> Batch:
    """Clips in the small surroundings of `batch`, for the penalties."""
    noise = normal(batch.latents.shape, generator, batch.latents.device)
    return replace(batch, latents=batch.latents + deviation * noise)
