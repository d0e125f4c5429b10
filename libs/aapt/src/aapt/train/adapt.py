"""Stage 1, diffusion adaptation: flow matching under teacher forcing and block-causal attention.

Paper, section 2.1 and appendix B: one time for the whole clip, v = noise - x0, every latent predicted in
parallel from the clean latent before it. What is ours is said at `AdaptConfig`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aapt.checkpoint import Model
from aapt.dit.model import DiT
from aapt.evals.drift import measure_drift
from aapt.flow import Time, clean_estimate, interpolate, shift_time
from aapt.shapes import Latents
from aapt.train.chance import device_of, normal, uniform
from aapt.train.log import Means
from aapt.train.loop import Turn
from aapt.train.parts import shares, spans
from aapt.train.ranges import ABOVE_0, ANY, COUNT, SHARE, check_ranges
from aapt.worlds.latents import Batch, Clips

JUDGED_LATENTS = 60


@dataclass(frozen=True)
class AdaptConfig:
    """The paper's stage is shift 24 and zero for all that follows it, with a network that names velocities.

    pure_noise: share of clips at t = 1, the only time that is ever served.
    late: share of clips that are seen as if they had been played for long (`Clips.batch`).
    history_noise: largest deviation of noise on the recycled latents. It teaches a small model to live with
      its own errors before the adversarial stage does.
    own_history: share of clips whose recycled latents are the network's own, up to `own_steps` steps away
      from the truth.
    """

    clips: int = 6
    length: int = 10
    shift: float = 3.0
    pure_noise: float = 0.3
    late: float = 0.0
    history_noise: float = 0.0
    own_history: float = 0.0
    own_steps: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, clips=COUNT, length=COUNT, shift=ABOVE_0, pure_noise=SHARE, late=SHARE)
        check_ranges(self, history_noise=ANY, own_history=SHARE, own_steps=COUNT)


class Adapt:
    """Mean squared error of the velocity.

    micro_clips: how many clips are passed at once, all by default. Fewer take less memory and teach the same.
    """

    def __init__(
        self, model: Model, clips: Clips, held_out: Clips, config: AdaptConfig, *, micro_clips: int = 0
    ) -> None:
        self.model = model.dit
        self._whole = model
        self._clips = clips
        self._held_out = held_out
        self._config = config
        self._micro_clips = micro_clips
        self._device = device_of(model.dit)

    @property
    def turns(self) -> tuple[Turn[Batch], ...]:
        return (Turn("network", self.model, self.learn),)

    def draw(self, generator: torch.Generator) -> Batch:
        config = self._config
        return self._clips.batch(generator, config.clips, config.length, config.late).to(self._device)

    def learn(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        config = self._config
        t = shift_time(uniform((config.clips,), generator, self._device), config.shift)
        is_pure = uniform((config.clips,), generator, self._device) < config.pure_noise
        t = torch.where(is_pure, 1.0, t)
        previous = recycled(self.model, batch, generator, config, self._micro_clips)
        noise = normal(batch.latents.shape, generator, self._device)
        noisy, numbers = interpolate(batch.latents, noise, t), Means()
        for some, share in shares(self.model, config.clips, self._micro_clips):
            seen = batch.rows(some)
            given = (previous[some], t[some], seen.text, seen.controls, seen.index)
            made = clean_estimate(noisy[some], self.model(noisy[some], *given), t[some])
            loss = velocity_loss(made, seen.latents, t[some], is_capped=self.model.config.predicts_clean)
            (share * loss).backward()
            error = (made.detach() - seen.latents).square().mean()
            numbers.add(share, loss=loss, clean_error=error)
        return numbers.means()

    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        assert isinstance(model, DiT)
        return judge(self._whole, model, self._held_out, folder, step)


def velocity_loss(made: Latents, true: Latents, t: Time, *, is_capped: bool) -> Float[Tensor, ""]:
    """Mean squared error of the velocity, (v - v')^2 = (x - x')^2 / t^2.

    is_capped: the weight stays at 4 below t = 1/2. A network that names the clean latent is never exact, and
    its error there would outweigh all else.
    """
    error = (made - true).square().mean((1, 2, 3, 4))
    weight = t.clamp_min(0.001).pow(-2)
    return (error * (weight.clamp_max(4) if is_capped else weight)).mean()


@runtime_checkable
class History(Protocol):
    """How the recycled latents of a batch are worsened; see `AdaptConfig`."""

    @property
    def history_noise(self) -> float: ...
    @property
    def own_history(self) -> float: ...
    @property
    def own_steps(self) -> int: ...


@torch.no_grad()
def recycled(
    dit: DiT, batch: Batch, generator: torch.Generator, history: History, micro_clips: int = 0
) -> Latents:
    """The recycled latents of a batch, worsened as `AdaptConfig` says; the first picture is spared.

    One parallel pass puts every latent one step of the network's own away from the truth, and each further
    pass over what the last one made, one step more.
    """
    previous, device = batch.previous.clone(), batch.previous.device
    own = round(history.own_history * len(previous))
    if own:
        chosen = torch.randperm(len(previous), generator=generator)[:own].to(device)
        steps = int(torch.randint(1, history.own_steps + 1, (), generator=generator))
        noises = normal((own, *previous.shape[1:]), generator, device)
        for some in spans(own, micro_clips):
            rows, noise = chosen[some], noises[some]
            t: Time = torch.ones(len(rows), device=device)
            text, controls, index = batch.text[rows], batch.controls[rows], batch.index[rows]
            follows = (index.diff(dim=1) == 1)[..., None, None, None]
            for _ in range(steps):
                seen = previous[rows]
                made = clean_estimate(noise, dit(noise, seen, t, text, controls, index), t)
                previous[rows, 1:] = torch.where(follows, made[:, :-1], seen[:, 1:])
    strength = history.history_noise * uniform(previous.shape[:2], generator, device)
    strength[:, 0] = 0
    return previous + strength[..., None, None, None] * normal(previous.shape, generator, device)


def judged_places(held_out: Clips) -> list[tuple[int, int]]:
    """Where the clips begin that a stage is judged on: two seconds into six recordings."""
    return [(i, 3) for i in range(min(6, len(held_out.episodes)))]


def judge(whole: Model, dit: DiT, held_out: Clips, folder: Path | None, step: int) -> dict[str, float]:
    """Free rollouts of held-out clips under their true controls: in numbers, as a sheet and as a clip."""
    judged = Model(whole.preset, dit.eval(), whole.vae, whole.text, whole.starts)
    shown = () if folder is None else (folder / f"sheet-{step:06d}.png", folder / f"clip-{step:06d}.mp4")
    numbers = measure_drift(judged, held_out.pick(judged_places(held_out), JUDGED_LATENTS), *shown)
    dit.train()
    return numbers
