"""`Watcher`: drives a dream by sight, as `drivers.SightedDriver` drives the game."""

import torch
from jaxtyping import Float
from torch import Tensor

from aapt.shapes import FRAMES_PER_LATENT, Frames, Latent
from aapt.vae.model import VideoVAE
from aapt.vae.streaming import StreamingVAE
from aapt.worlds.eyes import glance


class Watcher:
    """Sees what a session's latents are decoded to, one after another, `first` to begin with.

    As in the game a frame is answered four frames later. Of the first latent there is one frame, which all
    of the next latent's keys answer.
    """

    def __init__(self, vae: VideoVAE, keys: tuple[str, ...], first: Latent) -> None:
        self._codec = StreamingVAE(vae)
        self._keys = keys
        self._number = 1  # the driver takes its foot off in every second frame: odd or even is what counts
        self.frames: Frames = self._codec.decode(first)

    def see(self, latent: Latent) -> None:
        """Look at the frames of the next latent."""
        self.frames = self._codec.decode(latent)
        self._number += FRAMES_PER_LATENT

    def answer(self) -> tuple[Float[Tensor, "4 k"], list[bool]]:
        """What is held while the next latent comes about; whether each frame shows the car on the road."""
        glances = [glance(frame.numpy(), number) for number, frame in enumerate(self.frames, self._number)]
        rows = torch.tensor([[float(key in each.keys) for key in self._keys] for each in glances])
        return rows.expand(FRAMES_PER_LATENT, -1), [each.is_on_road for each in glances]
