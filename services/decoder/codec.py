"""`Codec`: what makes frames of a session's latents. `StreamingVAE` is one; a load test has another."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor

from aapt.vae.model import VideoVAE
from aapt.vae.streaming import StreamingVAE, for_serving


class Codec(Protocol):
    """One viewer's, who sees every latent in its order. Called from one thread at a time."""

    @property
    def looks_back(self) -> int:
        """Who has decoded so many latents before one has exactly its frames."""
        ...

    def decode(self, latent: Tensor, /) -> Tensor:
        """The session's next frames, [f, h, w, 3] uint8, on the CPU."""
        ...


def streaming(vae: VideoVAE) -> Callable[[], Codec]:
    """Makes each viewer its own codec; all share the network."""
    return partial(StreamingVAE, for_serving(vae))
