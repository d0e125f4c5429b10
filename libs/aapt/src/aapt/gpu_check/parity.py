"""Whether a served network makes what the CPU makes in float32.

Latents are compared one by one, each made of the same past: a trained world that is played freely goes
another way after the first rounding, whatever rounds it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aapt.checkpoint import Model
from aapt.rollout import Past, Rollout
from aapt.serving import AS_IT_IS, Serving, place
from aapt.shapes import FRAMES_PER_LATENT, Frames, Latent
from aapt.vae.streaming import StreamingVAE

SEED = 5
SESSIONS = 2  # in one step: graphs share their memory, and must not disturb each other
DECODED = 6  # latents
# Of the root mean square of the latents.
ALLOWED_ERROR = {"float32": 1e-3, "bfloat16": 0.05, "fp8": 0.2}
# Of frames, in levels out of 255; convolutions may multiply in TF32 where all else is float32.
ALLOWED_LEVELS = {"float32": 0.5, "bfloat16": 2.0}


@dataclass(frozen=True)
class Parity:
    """The worst error of a way of serving, beside what is allowed. what: "latents" or "frames"."""

    model: str
    way: str
    what: str
    compared: int
    error: float
    allowed: float

    @property
    def is_close(self) -> bool:
        """Whether it is within what is allowed; an error that is no number is not."""
        return self.error <= self.allowed


def compare(name: str, make: Callable[[], Model], way: str, serving: Serving) -> Iterator[Parity]:
    """`serving` against the CPU's float32, on the weights that `make` gives each time."""
    precision = "fp8" if serving.fp8 else serving.dtype
    reference, tried = make(), place(make(), serving)
    lived, held = _live(reference)
    errors = torch.tensor(list(_latent_errors(reference, tried, serving, lived, held)))
    worst = float(errors.max())  # no number, where one of them is none
    yield Parity(name, way, "latents", SESSIONS * len(errors), worst, ALLOWED_ERROR[precision])
    frames = [_decode(model, lived[:DECODED]) for model in (reference, tried)]
    levels = (frames[0].float() - frames[1].float()).square().mean().sqrt()
    yield Parity(name, way, "frames", len(frames[0]), float(levels), ALLOWED_LEVELS[serving.dtype])


def _live(model: Model) -> tuple[list[Latent], list[Tensor]]:
    """Twice the ring, so that every place has been overwritten, under random keys."""
    random = torch.Generator().manual_seed(SEED)
    latents = 2 * (model.preset.dit.window + 2)
    values = model.dit.controls.values_per_frame
    held = [
        torch.randint(0, 2, (FRAMES_PER_LATENT, values), generator=random).float() for _ in range(latents)
    ]
    rollout = Rollout(model, 1)
    lived = [rollout.open(0, None, "", SEED)]
    return lived + [rollout.step({0: control})[0] for control in held], held


def _latent_errors(
    reference: Model, tried: Model, serving: Serving, lived: list[Latent], held: list[Tensor]
) -> Iterator[float]:
    """Of each next latent, as a share of its root mean square: young sessions, then the ring once round."""
    window = reference.preset.dit.window
    rollouts = (Rollout(reference, SESSIONS, AS_IT_IS), Rollout(tried, SESSIONS, serving))
    for newest in (0, 1, window // 2, *range(window, len(held))):
        past = Past(dict(enumerate(lived[: newest + 1])), {i: held[i - 1] for i in range(1, newest + 1)})
        made = []
        for rollout in rollouts:
            for slot in range(SESSIONS):
                rollout.resume(slot, past, "", SEED + slot)
            # In turns the other way round: graphs that share memory must not mind their order.
            order = range(SESSIONS) if newest % 2 else reversed(range(SESSIONS))
            latents = rollout.step(dict.fromkeys(order, held[newest]))
            made.append(torch.stack([latents[slot] for slot in range(SESSIONS)]))
            for slot in range(SESSIONS):
                rollout.close(slot)
        expected, found = made
        yield float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def _decode(model: Model, latents: list[Latent]) -> Frames:
    codec = StreamingVAE(model.vae)
    return torch.cat([codec.decode(latent) for latent in latents])
