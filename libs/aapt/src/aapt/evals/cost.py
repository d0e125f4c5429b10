"""What a latent costs in this loop and in others: the paper's figure 2, and two more.

A network that is trained by diffusion forcing takes its past from keys and values alone, and those must be
made of the clean latent: one step is two evaluations, the noisy latent's and then the clean one's, which
fills the cache. Recycling the clean latent as an input of the next evaluation saves the second. Open causal
models take four steps and then fill the cache; and without any cache, the window is evaluated again.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aapt.checkpoint import Model
from aapt.dit.model import CachePass
from aapt.flow import clean_estimate
from aapt.shapes import FRAMES_PER_LATENT


@torch.inference_mode()
def measure_cost(model: Model, repeats: int = 60) -> dict[str, float]:
    """Milliseconds and GFLOP of a latent in each loop, in turn on this machine, the window full; medians.

    ratio: diffusion forcing against the recycled input.
    """
    preset, dit = model.preset, model.dit
    latent = torch.randn(1, 1, *preset.latent_shape, generator=torch.Generator().manual_seed(0))
    controls = torch.zeros(1, 1, FRAMES_PER_LATENT, len(preset.keys))
    cache = dit.new_cache(1, *preset.latent_shape[1:])
    dit.read_text(model.text.encode(preset.prompt)[None], cache, 0)
    newest = dit.config.window + 2  # from here on every place of the ring is in use

    def evaluate(t: float) -> torch.Tensor:
        time_ = torch.full((1,), t)
        here = CachePass(cache, (0,), ((newest,),))
        return clean_estimate(latent, dit(latent, latent, time_, None, controls, cache=here), time_)

    def at_times(*times: float) -> None:
        for t in times:
            evaluate(t)

    kept = cache.kept(newest)
    text, index = model.text.encode(preset.prompt)[None], torch.tensor([kept])

    def again() -> None:
        whole = latent.expand(1, len(kept), *preset.latent_shape)
        dit(whole, whole, torch.ones(1), text, controls.expand(1, len(kept), *controls.shape[2:]), index)

    loops: dict[str, Callable[[], None]] = {
        "recycled": partial(at_times, 1.0),
        "diffusion_forcing": partial(at_times, 1.0, 0.0),
        "four_steps": partial(at_times, 1.0, 0.75, 0.5, 0.25, 0.0),
        "no_cache": again,
    }
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(repeats):
        for name, work in loops.items():
            begun = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - begun)
    numbers = {f"{name}_ms": 1000 * statistics.median(each) for name, each in taken.items()}
    for name, work in loops.items():
        # The counter knows no formula for the fused attention of processors.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            work()
        numbers[f"{name}_gflop"] = counter.get_total_flops() / 1e9
    numbers["ratio"] = numbers["diffusion_forcing_ms"] / numbers["recycled_ms"]
    return {name: round(value, 6) for name, value in numbers.items()}
