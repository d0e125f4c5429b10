"""What stage 3 plays and learns from: segments of the student's own rollouts, each beside a real clip."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from aapt.dit.model import CachePass
from aapt.rollout import Rollout
from aapt.shapes import Controls, Latents
from aapt.train.chance import normal
from aapt.worlds.latents import Batch
from aapt.worlds.watcher import Watcher


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


def rolled_out(
    rollout: Rollout, controls: Controls, watchers: Sequence[Watcher] = (), held: int = 0
) -> tuple[Latents, Controls]:
    """What all sessions of `rollout` make under `controls`, and these controls.

    watchers: one for each session, who has seen all before. What they press takes the place of `controls`,
      but for the first `held` latents.
    """
    slots = range(len(controls))
    made, pressed = [], []
    for i in range(controls.shape[1]):
        rows = controls[:, i]
        if watchers and i >= held:
            rows = torch.stack([watcher.answer()[0] for watcher in watchers])
        latents = rollout.step({slot: rows[slot] for slot in slots})
        for slot, watcher in enumerate(watchers):
            watcher.see(latents[slot])
        made.append(torch.stack([latents[slot] for slot in slots]))
        pressed.append(rows)
    return torch.stack(made, 1).clone(), torch.stack(pressed, 1)


def perturbed(batch: Batch, deviation: float, generator: torch.Generator) -> Batch:
    """Clips in the small surroundings of `batch`, for the penalties."""
    noise = normal(batch.latents.shape, generator, batch.latents.device)
    return replace(batch, latents=batch.latents + deviation * noise)
