"""`World`: what the engine drives. `Rollout` is one, for one device; six lines in a test are another."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from aapt.checkpoint import Model
from aapt.rollout import Past, Rollout
from aapt.serving import CannotServe, best_serving, place
from services import memory
from services.errors import BadSetting


class World(Protocol):
    """Sessions in slots, each gaining one latent a step. Called from one thread at a time."""

    slots: int

    @property
    def window(self) -> int:
        """A step costs what it always will once a session is older than so many latents."""
        ...

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

    def extend(self, slot: int, past: Past) -> None:
        """Take in latents that were made elsewhere after those that the session was resumed with."""
        ...

    def close(self, slot: int) -> None:
        """Free a slot. Closing a free one is no error."""
        ...


def on_one_device(
    model: Model, slots: int, device: str = "cpu", *, is_compiled: bool = False, fp8: bool = False
) -> Rollout:
    """A world on one device ("": the first GPU, or the CPU), where `model` then lives, warmed up.

    Raises BadSetting where the device is not there, or weights and cache do not fit.
    """
    try:
        serving = best_serving(device, is_compiled=is_compiled, fp8=fp8)
        place(model, serving)
        check_memory(model, slots, torch.device(serving.device))
        rollout = Rollout(model, slots, serving)
        rollout.warm_up()
    except CannotServe as error:
        raise BadSetting(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
        raise BadSetting(f"{model.preset.name} with {slots} slots does not fit {device}: {error}") from error
    return rollout


def check_memory(model: Model, slots: int, device: torch.device) -> None:
    """Raises BadSetting, with the bytes, where the cache of so many slots does not fit beside the weights."""
    one = model.dit.new_cache(1, *model.preset.latent_shape[1:], device="meta").size_bytes
    left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available_bytes()
    if left is not None and slots * one > left:
        raise BadSetting(
            f"{slots} slots of {model.preset.name} take {slots * one} bytes of memory, {one} each, and"
            f" {left} are left beside its weights; choose {left // one} or fewer"
        )


def timed_steps(
    world: World, sessions: int, steps: int, control: Tensor, clock: Callable[[], float] = time.monotonic
) -> list[float]:
    """What each of `steps` steps took for so many sessions past the window, in an empty world that is left
    empty."""
    took_s = []
    try:
        for slot in range(sessions):
            world.open(slot, None, "", slot)
        for _ in range(world.window + 1 + steps):
            start_s = clock()
            world.step(dict.fromkeys(range(sessions), control))
            took_s.append(clock() - start_s)
    finally:
        for slot in range(sessions):
            world.close(slot)
    return took_s[world.window + 1 :]
