"""The losses of stages 1 and 2 against the paper's formulas, written out clip by clip."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from aapt.checkpoint import Model, untrained
from aapt.dit.model import DiT
from aapt.presets import DEBUG
from aapt.train.adapt import Adapt, AdaptConfig, velocity_loss
from aapt.train.distill import Distill, DistillConfig
from aapt.worlds.latents import Batch
from tests.aapt.players import noise_clips, restless

SHIFT = 3.0


def shifted(u: Tensor) -> Tensor:
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def asked(dit: DiT, x: Tensor, batch: Batch, t: Tensor, clip: int) -> Tensor:
    """The velocity that a network names for one clip."""
    of = slice(clip, clip + 1)
    given = (batch.previous[of], t[None], batch.text[of], batch.controls[of], batch.index[of])
    named: Tensor = dit(x[None], *given)
    return named[0]


def gradients(dit: DiT) -> list[Tensor]:
    found = [p.grad.clone() for p in dit.parameters() if p.grad is not None]
    dit.zero_grad(set_to_none=True)
    return found


def check(dit: DiT, numbers: dict[str, float], expected: Tensor) -> None:
    """The stage's loss is the expected one, and so is its gradient."""
    learnt = gradients(dit)
    expected.backward()
    assert numbers["loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
    torch.testing.assert_close(learnt, gradients(dit), rtol=2e-3, atol=1e-4)


def test_the_loss_of_a_clean_estimate_is_that_of_its_velocity() -> None:
    clean, noise, named = torch.randn(3, 4, 5, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0.05, 0.3, 0.8, 1.0])
    made = torch.stack(
        [(1 - s) * x + s * e - s * v for x, e, v, s in zip(clean, noise, named, t, strict=True)]
    )
    errors = (named - (noise - clean)).square().mean((1, 2, 3, 4))
    uncapped = float(velocity_loss(made, clean, t, is_capped=False))
    assert uncapped == pytest.approx(float(errors.mean()), rel=1e-4)
    # Below t = 1/2 the weight of the clean error stays at 4: a velocity's error then counts 4 t^2.
    capped = float((errors * torch.tensor([4 * 0.05**2, 4 * 0.3**2, 1, 1])).mean())
    assert float(velocity_loss(made, clean, t, is_capped=True)) == pytest.approx(capped, rel=1e-4)


def test_stage_1_of_a_network_that_names_velocities_is_the_papers() -> None:
    preset = replace(DEBUG, dit=replace(DEBUG.dit, predicts_clean=False))
    model: Model = untrained(preset)
    nn.init.normal_(model.dit.head.weight, std=0.2, generator=torch.Generator().manual_seed(1))
    clips = noise_clips(model)
    stage = Adapt(model, clips, clips, AdaptConfig(clips=4, length=5, shift=SHIFT, pure_noise=0.0))
    batch = stage.draw(torch.Generator().manual_seed(3))
    numbers = stage.learn(batch, torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    t = shifted(torch.rand(4, generator=again))
    torch.rand(4, generator=again)  # who begins at pure noise
    torch.rand(batch.previous.shape[:2], generator=again)  # how much noise the history gets: none
    torch.randn(batch.previous.shape, generator=again)
    noise = torch.randn(batch.latents.shape, generator=again)
    losses = []
    for clip in range(4):
        x0, eps = batch.latents[clip], noise[clip]
        x_t = (1 - t[clip]) * x0 + t[clip] * eps
        losses.append((asked(model.dit, x_t, batch, t[clip], clip) - (eps - x0)).square().mean())
    check(model.dit, numbers, torch.stack(losses).mean())


def test_stage_2_is_consistency_distillation_as_the_paper_has_it() -> None:
    steps, count = 3, 8
    model = restless()
    clips = noise_clips(model)
    stage = Distill(model, clips, clips, DistillConfig(clips=count, length=4, grid_steps=steps, shift=SHIFT))
    nn.init.normal_(
        model.dit.head.weight, std=0.2, generator=torch.Generator().manual_seed(9)
    )  # has left its teacher
    batch = stage.draw(torch.Generator().manual_seed(3))
    numbers = stage.learn(batch, torch.Generator().manual_seed(4))
    again = torch.Generator().manual_seed(4)
    ks = torch.randint(1, steps + 1, (count,), generator=again).tolist()
    assert set(ks) == {1, 2, 3}
    noise = torch.randn(batch.latents.shape, generator=again)
    losses = []
    for clip, k in enumerate(ks):
        t, below = shifted(torch.tensor(k / steps)), shifted(torch.tensor((k - 1) / steps))
        x_t = (1 - t) * batch.latents[clip] + t * noise[clip]
        with torch.no_grad():
            target = x_t + (below - t) * asked(stage.teacher, x_t, batch, t, clip)
            if k > 1:  # at t = 0 the function is the identity
                target = target - below * asked(model.dit, target, batch, below, clip)
        landed = x_t - t * asked(model.dit, x_t, batch, t, clip)
        losses.append((landed - target).square().mean())
    check(model.dit, numbers, torch.stack(losses).mean())
