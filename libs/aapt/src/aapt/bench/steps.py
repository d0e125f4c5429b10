"""How long a step takes: by how many sessions share it, by their age, and against other loops."""

import statistics
import time
from collections.abc import Callable

import torch

from aapt.checkpoint import Model
from aapt.rollout import Rollout
from aapt.shapes import FRAMES_PER_LATENT

SIZES = (1, 2, 4, 8)
LATENTS_A_MINUTE = 360


def by_size(model: Model, repeats: int = 60) -> dict[int, float]:
    """Median seconds of a step for 1, 2, 4 and 8 sessions with full windows, in turn."""
    rollouts = {size: _full(model, size) for size in SIZES}
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(repeats):
        for size, rollout in rollouts.items():
            taken[size].append(_step_s(model, rollout, size))
    return {size: statistics.median(each) for size, each in taken.items()}


def by_age(model: Model, minutes: int = 10, tick: Callable[[], object] = lambda: None) -> list[float]:
    """Median seconds of a step in each minute of one session's life. tick: called after each step."""
    rollout = _full(model, 1)
    taken = []
    for _ in range(minutes * LATENTS_A_MINUTE):
        taken.append(_step_s(model, rollout, 1))
        tick()
    spans = range(0, len(taken), LATENTS_A_MINUTE)
    return [statistics.median(taken[i : i + LATENTS_A_MINUTE]) for i in spans]


def _full(model: Model, sessions: int) -> Rollout:
    rollout = Rollout(model, sessions)
    for slot in range(sessions):
        rollout.open(slot, None, "", slot)
    for _ in range(model.dit.config.window + 2):
        _step_s(model, rollout, sessions)
    return rollout


def _step_s(model: Model, rollout: Rollout, sessions: int) -> float:
    control = torch.zeros(FRAMES_PER_LATENT, model.dit.controls.values_per_frame)
    begun_s = time.perf_counter()
    rollout.step(dict.fromkeys(range(sessions), control))
    return time.perf_counter() - begun_s
