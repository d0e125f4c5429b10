"""Play with several evaluations a latent: the diffusion baseline that one evaluation is compared with."""

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from aapt.checkpoint import Model
from aapt.dit.model import CachePass
from aapt.flow import time_grid
from aapt.rollout import noise
from aapt.shapes import Controls, Latents, Text


@torch.inference_mode()
def play_diffusion(
    model: Model,
    first: Float[Tensor, "b c y x"],
    text: Text,
    controls: Controls,
    seed: int = 0,
    *,
    steps: int,
    shift: float,
) -> Latents:
    """As `drift.play`, with `steps` Euler steps down the time grid for every latent; one step is that play.

    Each time of the grid has a cache of its own: stage 1 teaches one time for a whole clip, so a latent looks
    back at keys of its own time.
    """
    grid = time_grid(steps, shift).tolist()
    slots = tuple(range(len(first)))
    caches = [model.dit.new_cache(len(first), *first.shape[-2:]) for _ in range(steps)]
    for cache in caches:
        for slot in slots:
            model.dit.read_text(text[slot : slot + 1], cache, slot)
    previous, made = first[:, None], []
    for i in tqdm(range(controls.shape[1]), desc="dreaming", unit="latent", leave=False):
        x = torch.stack([noise(model.preset, seed + slot, i + 1) for slot in slots])[:, None]
        for cache, t, next_t in zip(caches, grid[:0:-1], grid[-2::-1], strict=True):
            seen = CachePass(cache, slots, ((i + 1,),) * len(slots))
            time = torch.full((len(first),), t)
            velocity = model.dit(x, previous, time, None, controls[:, i : i + 1], cache=seen)
            x = x + (next_t - t) * velocity
        previous = x
        made.append(x)
    return torch.cat(made, 1)
