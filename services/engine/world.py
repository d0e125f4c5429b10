"""`World`: what the engine drives. `Rollout` is one; six lines in a test are another."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from aapt.rollout import Past


class World(Protocol):
    """Sessions in slots, each gaining one latent a step. Called from one thread at a time."""

    slots: int

    def open(self, slot: int, image: Tensor | None, prompt: str, seed: int) -> Tensor:
        """Begin a session and return latent 0; `image` is [h, w, 3] uint8, or None: the model's own."""
        ...

    def step(self, controls: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """One more latent for each slot in `controls` ([4, k]: a row for each video frame)."""
        ...

    def set_prompt(self, slot: int, prompt: str) -> None:
        """From the next latent on, the session's world should look like this."""
        ...

    def resume(self, slot: int, past: Past, prompt: str, seed: int) -> None:
        """Go on in a free slot with a session that was played elsewhere."""
        ...

    def close(self, slot: int) -> None:
        """Free a slot. Closing a free one is no error."""
        ...
