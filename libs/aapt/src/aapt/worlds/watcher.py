"""`Watcher`: drives a dream by sight, as `drivers.SightedDriver` drives the game."""

import torch
from jaxtyping import Float
from torch import Tensor

from aapt.shapes import FRAMES_PER_LATENT, Frames, Latent
from aapt.vae.model import VideoVAE
from aapt.vae.streaming import StreamingVAE
from aapt.worlds.eyes import glance


class Watcher:
    """Sees what a session's latents are decoded to, one after another."""

    def __init__(self, vae: VideoVAE, keys: tuple[str, ...]) -> None:
        self._codec = StreamingVAE(vae)
        self._keys = keys
        self._seen = 0
        self._frames: Frames = torch.empty(0)

    def see(self, latent: Latent) -> Frames:
        """Look at the frames of the next latent, and return them."""
        self._frames = self._codec.decode(latent)
        self._seen += 1
        return self._frames

    def answer(self) -> tuple[Float[Tensor, "4 k"], list[bool]]:
        """What is held while the next latent comes about; whether each frame shows the car on the road."""
        glances = [glance(f.numpy(), self._seen * FRAMES_PER_LATENT + n) for n, f in enumerate(self._frames)]
        rows = torch.tensor([[float(key in each.keys) for key in self._keys] for each in glances])
        return rows.expand(FRAMES_PER_LATENT, -1), [each.is_on_road for each in glances]
