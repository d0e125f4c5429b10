"""A network that moves and clips of noise, for tests that need no more."""

import torch
from torch import nn

from aapt.checkpoint import Model, untrained
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import DEBUG
from aapt.worlds.latents import Clips, EncodedEpisode


def restless(parallel: SequenceParallel = ALONE) -> Model:
    """A fresh network answers zero to everything; this one does not."""
    made = untrained(DEBUG, parallel=parallel)
    torch.manual_seed(1)
    nn.init.normal_(made.dit.head.weight, std=0.2)
    return made


def noise_clips(model: Model, episodes: int = 2, latents: int = 80) -> Clips:
    """Episodes of noise, named by their number."""
    random = torch.Generator().manual_seed(2)
    encoded = []
    for number in range(episodes):
        made = torch.randn(latents, 4, 4, 4, generator=random)
        controls = torch.randint(0, 2, (latents, 4, 4), generator=random).float()
        encoded.append(EncodedEpisode(made[::4] * 0.5, made, controls, "noise", f"episode-{number:05d}"))
    return Clips(encoded, model.text)
