"""How close a session that goes on elsewhere is to an uninterrupted one: `python -m aapt.bench.resume`.

Both play the same keys from the same seed. At some age one is taken up anew: from what a decoder keeps
(after a failure), or from that and the latents that came while the new world was built up (in a drain).
Then the next 24 frames of both are compared.
"""

import argparse
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from aapt import checkpoint
from aapt.bench.results import table
from aapt.checkpoint import Model
from aapt.rollout import Past, Rollout
from aapt.shapes import FRAMES_PER_LATENT, Frames, Latent
from aapt.vae.streaming import StreamingVAE

AGES = (1, 4, 7, 8, 12, 24, 120, 720)  # latents; the window of `road` is 6, so all of 7 is seen by the next
COMPARED = 6  # latents: 24 frames
SINCE = 3  # latents that come while a world is built up ahead
EQUAL_DB = 100.0  # said where not a pixel differs


def keys_of(seed: int, latents: int, keys: int) -> dict[int, Tensor]:
    """Keys that change every half second or so, as a player's do."""
    random = torch.Generator().manual_seed(seed)
    held, controls = torch.zeros(keys), dict[int, Tensor]()
    for index in range(1, latents + 1):
        if torch.rand((), generator=random) < 0.3:
            held = (torch.rand(keys, generator=random) < 0.4).float()
        controls[index] = held.repeat(FRAMES_PER_LATENT, 1)
    return controls


def kept(latents: Mapping[int, Latent], controls: Mapping[int, Tensor], newest: int, window: int) -> Past:
    """What a decoder has of a session whose newest latent this is."""
    indices = [i for i in range(newest + 1) if i < 2 or i >= newest - window - 1]
    return Past({i: latents[i] for i in indices}, {i: controls[i] for i in indices if i})


def psnr_db(one: Frames, other: Frames) -> float:
    """Of all pixels of both; EQUAL_DB where none differs."""
    error = (one.float() - other.float()).square().mean().item()
    return EQUAL_DB if error == 0 else min(EQUAL_DB, 10 * math.log10(255**2 / error))


def compare(model: Model, seed: int, age: int, since: int = 0) -> float:
    """PSNR of the 24 frames after latent `age`, in dB. since: so many latents came while it was built up."""
    controls = keys_of(seed, age + COMPARED, len(model.preset.keys))
    rollout = Rollout(model, 2)
    latents = {0: rollout.open(0, None, "", seed)}
    for index in range(1, age + COMPARED + 1):
        latents[index] = rollout.step({0: controls[index]})[0]
    built = age - since
    rollout.resume(1, kept(latents, controls, built, rollout.window), "", seed)
    ahead = range(built + 1, age + 1)
    rollout.extend(1, Past({i: latents[i] for i in ahead}, {i: controls[i] for i in ahead}))
    resumed = dict(latents)
    for index in range(age + 1, age + COMPARED + 1):
        resumed[index] = rollout.step({1: controls[index]})[1]
    shown = []
    for each in (latents, resumed):
        codec = StreamingVAE(model.vae)
        for index in range(max(0, age - codec.looks_back), age + 1):
            codec.decode(each[index])
        shown.append(torch.cat([codec.decode(each[i]) for i in range(age + 1, age + COMPARED + 1)]))
    return psnr_db(*shown)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aapt.bench.resume", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = checkpoint.load(options.checkpoint)
    rows = []
    for age in AGES:
        handed = [compare(model, seed, age) for seed in range(1, options.seeds + 1)]
        drained = [compare(model, seed, age, min(SINCE, age - 1)) for seed in range(1, options.seeds + 1)]
        rows.append((f"after latent {age}", _said(handed), _said(drained)))
    named = f"PSNR of the next 24 frames, median and worst of {options.seeds} seeds"
    print(table(named, rows).replace("| target | measured |", "| after a failure | in a drain |"))


def _said(values_db: list[float]) -> str:
    median, worst = statistics.median(values_db), min(values_db)
    return f"{median:.1f} dB, {worst:.1f} dB" if worst < EQUAL_DB else "equal"


if __name__ == "__main__":
    main()
