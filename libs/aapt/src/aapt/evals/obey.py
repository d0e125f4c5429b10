"""Whether a world obeys its keys: the error with the keys that were held, with others, and its turns."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from aapt.checkpoint import Model
from aapt.evals.drift import play
from aapt.flow import clean_estimate
from aapt.shapes import FRAMES_PER_LATENT, Controls, Video, to_video
from aapt.worlds.clips import FRAMES_PER_SECOND
from aapt.worlds.latents import Batch

REACH_PX = 10  # the largest turn looked for between a latent's first and last frame
SKIPPED_LATENTS = 2  # a car answers its wheel with a delay
GAMES, FIRST_SEED = 8, 20_000  # no training has seen their tracks


@torch.inference_mode()
def measure_obedience(model: Model, batch: Batch, seed: int = 0) -> dict[str, float]:
    """How much worse one step from true latents fits when the keys are exchanged or dropped.

    `error_mirrored` and `error_without` above `error_true` say that the network reads its keys. Those of
    `turn_*` are free rollouts with up and one steering key held for a second: by how many pixels the far half
    of the picture moves sideways in a latent, to the right positive. Turning left moves it to the right.
    """
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(seed))
    t = torch.ones(len(noise))
    numbers = {}
    for name, controls in (
        ("true", batch.controls),
        ("mirrored", mirrored(model, batch.controls)),
        ("without", torch.zeros_like(batch.controls)),
    ):
        made = clean_estimate(noise, model.dit(noise, batch.previous, t, batch.text, controls), t)
        numbers[f"error_{name}"] = round(float((made - batch.latents).square().mean()), 4)
    numbers["error_of_copying"] = round(float((batch.previous - batch.latents).square().mean()), 4)
    for key in ("left", "right"):
        numbers[f"turn_{key}_px"] = round(_turn_px(model, batch, key), 2)
    return numbers


def game_turns() -> dict[str, float]:
    """What `turn_*` are in `road` itself: a car at speed on eight tracks, with up and one steering key.

    Raises ModuleNotFoundError where the game is not installed.
    """
    return {f"game_turn_{key}_px": round(_game_turn_px(key), 2) for key in ("left", "right")}


def mirrored(model: Model, controls: Controls) -> Controls:
    """The same keys with left and right exchanged."""
    keys = list(model.preset.keys)
    order = [keys.index({"left": "right", "right": "left"}.get(key, key)) for key in keys]
    return controls[..., order]


def _turn_px(model: Model, batch: Batch, key: str) -> float:
    # A second of what was recorded first, so that the car is under way.
    latents = math.ceil(model.preset.frames_per_second / FRAMES_PER_LATENT)
    controls = batch.controls[:, : 2 * latents].clone()
    controls[:, latents:] = 0
    for held in ("up", key):
        controls[:, latents:, :, model.preset.keys.index(held)] = 1
    made = play(model, batch.first, batch.text, controls)
    video = model.vae.decode(torch.cat([batch.first[:, None], made], 1))[:, 1:]
    turned = video[:, FRAMES_PER_LATENT * (latents + SKIPPED_LATENTS) :]
    return float(sideways_px(turned).mean())


def _game_turn_px(key: str) -> float:
    from aapt.worlds import road  # pygame is no small thing to load, and may not be there

    held = np.array([each in ("up", key) for each in road.KEYS])
    turns = []
    for seed in range(FIRST_SEED, FIRST_SEED + GAMES):
        game = road.Road(seed)
        game.place(tile=20, offset_m=0.0, turn_rad=0.0, speed_mps=road.CRUISE_SPEED_MPS)
        frames = []
        for _ in range(FRAMES_PER_SECOND):
            game.step(held)
            frames.append(game.picture())
        video = to_video(torch.from_numpy(np.array(frames[FRAMES_PER_LATENT * SKIPPED_LATENTS :])))
        turns.append(float(sideways_px(video[None]).mean()))
    return sum(turns) / len(turns)


def sideways_px(video: Video) -> Float[Tensor, "b n"]:
    """How far the upper half of the picture moves sideways within each latent, scaled to its four frames."""
    groups = video[..., : video.shape[-2] // 2, :].unflatten(1, (-1, FRAMES_PER_LATENT))
    before, after = groups[:, :, 0], groups[:, :, -1]
    width = video.shape[-1]
    shifts = range(-REACH_PX, REACH_PX + 1)
    inner = before[..., REACH_PX : width - REACH_PX]
    costs = torch.stack(
        [
            (after[..., REACH_PX + s : width - REACH_PX + s] - inner).square().mean((-3, -2, -1))
            for s in shifts
        ],
        -1,
    )
    return (costs.argmin(-1) - REACH_PX) * FRAMES_PER_LATENT / (FRAMES_PER_LATENT - 1)
