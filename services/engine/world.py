"""`World`: what the engine drives. `Rollout` is one, for one device; six lines in a test are another."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from aapt.checkpoint import Model
from aapt.rollout import Past, Rollout
from services import memory
from services.errors import BadSetting


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


def on_one_device(model: Model, slots: int) -> Rollout:
    """A world on the device that holds the weights. Raises BadSetting where its cache does not fit."""
    one = model.dit.new_cache(1, *model.preset.latent_shape[1:], device="meta").size_bytes
    left = memory.available_bytes()
    if left is not None and slots * one > left:
        raise BadSetting(
            f"{slots} slots of {model.preset.name} take {slots * one} bytes of memory, {one} each, and"
            f" {left} are left; choose {left // one} or fewer"
        )
    return Rollout(model, slots)


def timed_steps(
    world: World, sessions: int, steps: int, control: Tensor, clock: Callable[[], float] = time.monotonic
) -> list[float]:
    """What each of `steps` steps took for so many sessions, in an empty world that is left empty."""
    took_s = []
    try:
        for slot in range(sessions):
            world.open(slot, None, "", slot)
        for _ in range(steps):
            start_s = clock()
            world.step(dict.fromkeys(range(sessions), control))
            took_s.append(clock() - start_s)
    finally:
        for slot in range(sessions):
            world.close(slot)
    return took_s
