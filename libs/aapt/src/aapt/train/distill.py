"""Stage 2, consistency distillation: one evaluation lands where the teacher's many small steps would.

Paper, appendix B: fixed steps, no guidance, no moving average on the target; teacher forcing and one time
for the whole clip, as in stage 1.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aapt.checkpoint import Model
from aapt.dit.model import DiT
from aapt.flow import Time, clean_estimate, interpolate, per_clip, time_grid
from aapt.shapes import Latents
from aapt.train.adapt import judge, recycled
from aapt.train.chance import device_of, normal
from aapt.train.log import Means
from aapt.train.loop import Turn
from aapt.train.parts import shares
from aapt.train.ranges import ABOVE_0, ANY, COUNT, SHARE, check_ranges
from aapt.worlds.latents import Batch, Clips


@dataclass(frozen=True)
class DistillConfig:
    """The paper: 32 steps, shift 24; `late` and all that worsens the history as in stage 1."""

    clips: int = 6
    length: int = 10
    grid_steps: int = 32
    shift: float = 3.0
    late: float = 0.0
    history_noise: float = 0.0
    own_history: float = 0.0
    own_steps: int = 1

    def __post_init__(self) -> None:
        check_ranges(self, clips=COUNT, length=COUNT, grid_steps=COUNT, shift=ABOVE_0, late=SHARE)
        check_ranges(self, history_noise=ANY, own_history=SHARE, own_steps=COUNT)


class Distill:
    """The squared distance between where the student lands from t_k, and from one teacher step below it.

    micro_clips: as in `Adapt`.
    """

    def __init__(
        self, model: Model, clips: Clips, held_out: Clips, config: DistillConfig, *, micro_clips: int = 0
    ) -> None:
        self.model = model.dit
        self.teacher = copy.deepcopy(model.dit).requires_grad_(False)
        self._whole = model
        self._clips = clips
        self._held_out = held_out
        self._config = config
        self._micro_clips = micro_clips
        self._device = device_of(model.dit)
        self._grid = time_grid(config.grid_steps, config.shift).to(self._device)

    @property
    def turns(self) -> tuple[Turn[Batch], ...]:
        return (Turn("network", self.model, self.learn),)

    def draw(self, generator: torch.Generator) -> Batch:
        config = self._config
        return self._clips.batch(generator, config.clips, config.length, config.late).to(self._device)

    def learn(self, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        config, student = self._config, self.model
        k = torch.randint(1, config.grid_steps + 1, (config.clips,), generator=generator).to(self._device)
        t, t_below = self._grid[k], self._grid[k - 1]
        noise = normal(batch.latents.shape, generator, self._device)
        previous = recycled(student, batch, generator, config, self._micro_clips)
        numbers = Means()
        for some, share in shares(student, config.clips, self._micro_clips):
            loss = self._loss(batch.rows(some), noise[some], previous[some], t[some], t_below[some])
            (share * loss).backward()
            numbers.add(share, loss=loss)
        return numbers.means()

    def _loss(
        self, batch: Batch, noise: Latents, previous: Latents, t: Time, t_below: Time
    ) -> Float[Tensor, ""]:
        noisy = interpolate(batch.latents, noise, t)
        given = (batch.text, batch.controls, batch.index)
        with torch.no_grad():
            down = self.teacher(noisy, previous, t, *given)
            below = noisy + per_clip(t_below - t) * down
            target = clean_estimate(below, self.model(below, previous, t_below, *given), t_below)
        made = clean_estimate(noisy, self.model(noisy, previous, t, *given), t)
        return (made - target).square().mean()

    def evaluate(self, model: nn.Module, folder: Path | None, step: int) -> dict[str, float]:
        assert isinstance(model, DiT)
        return judge(self._whole, model, self._held_out, folder, step)
