"""A network that moves and clips of noise, for tests that need no more."""

import torch
from torch import nn

from aapt.checkpoint import Model, untrained
from aapt.presets import DEBUG
from aapt.worlds.latents import Clips, EncodedEpisode


def restless() -> Model:
    """A fresh network answers zero to everything; this one does not."""
    made = untrained(DEBUG)
    torch.manual_seed(1)
    nn.init.normal_(made.dit.head.weight, std=0.2)
    return made


def noise_clips(model: Model) -> Clips:
    """Two episodes of 80 latents."""
    random = torch.Generator().manual_seed(2)
    episodes = []
    for _ in range(2):
        latents = torch.randn(80, 4, 4, 4, generator=random)
        controls = torch.randint(0, 2, (80, 4, 4), generator=random).float()
        episodes.append(EncodedEpisode(latents[::4] * 0.5, latents, controls, "noise"))
    return Clips(episodes, model.text)
