"""The losses of stage 3 against the paper's formulas, written out."""

import pytest
import torch

from aapt.dit.discriminator import Discriminator
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.worlds.latents import Batch
from tests.aapt.players import noise_clips, restless

CLOSE = 1e-5


def test_the_losses_are_those_of_the_paper_written_out() -> None:
    model = restless()
    clips = noise_clips(model)
    config = AdversarialConfig(clips=2, length=7)
    adversarial = Adversarial(model, model.dit, clips, clips, config)
    generator = torch.Generator().manual_seed(5)
    (segment,) = adversarial.draw(generator)
    numbers = adversarial.learn_discriminator((segment,), generator)
    again = torch.Generator().manual_seed(5)
    adversarial.draw(again)
    t = torch.rand(2, generator=again)
    real_near, fake_near = (
        batch.latents + 0.1 * torch.randn(batch.latents.shape, generator=again)
        for batch in (segment.real, segment.fake)
    )

    def logits(batch: Batch, latents: torch.Tensor) -> torch.Tensor:
        given = (batch.previous[:, 0], t, batch.text, batch.controls, batch.index)
        judged: torch.Tensor = adversarial.discriminator(latents, *given)
        return judged

    r, g = (logits(batch, batch.latents) for batch in (segment.real, segment.fake))
    # The paper's f_D(d) = -log(1 + exp(d)) is maximised, of fake minus real.
    assert numbers["adversarial"] == pytest.approx(float((1 + (g - r).exp()).log().mean()), abs=CLOSE)
    r1 = (r - logits(segment.real, real_near)).square().mean()
    r2 = (g - logits(segment.fake, fake_near)).square().mean()
    assert numbers["penalty"] == pytest.approx(float(r1 + r2), abs=CLOSE)
    assert numbers["loss"] == pytest.approx(numbers["adversarial"] + 1000 * numbers["penalty"], rel=1e-4)
    made = adversarial.learn_generator((segment,), torch.Generator().manual_seed(6))
    t = torch.rand(2, generator=torch.Generator().manual_seed(6))
    r, g = (logits(batch, batch.latents) for batch in (segment.real, segment.fake))
    assert made["loss"] == pytest.approx(float((1 + (r - g).exp()).log().mean()), abs=CLOSE)


def test_the_penalty_tends_to_the_squared_gradient_as_the_perturbation_vanishes() -> None:
    model = restless()
    clips = noise_clips(model)
    discriminator = Discriminator(model.dit, judges_latents=False).double()
    batch = clips.batch(torch.Generator().manual_seed(1), 1, 3)
    text, controls, before = batch.text.double(), batch.controls.double(), batch.first.double()
    t = torch.full((1,), 0.5, dtype=torch.float64)

    def logit(latents: torch.Tensor) -> torch.Tensor:
        judged: torch.Tensor = discriminator(latents, before, t, text, controls, batch.index)
        return judged.sum()

    clean = batch.latents.double().requires_grad_()
    (gradient,) = torch.autograd.grad(logit(clean), clean)
    true = gradient.square().sum()
    random = torch.Generator().manual_seed(2)
    noises = [torch.randn(clean.shape, generator=random, dtype=torch.float64) for _ in range(400)]

    @torch.no_grad()
    def approximated(sigma: float) -> torch.Tensor:
        base = logit(clean)
        return torch.stack([(logit(clean + sigma * n) - base).square() for n in noises]).mean() / sigma**2

    # E (g·n)^2 = |g|^2; with the same noises the sampled mean is what the small-sigma limit must equal.
    limit = torch.stack([(gradient * n).sum().square() for n in noises]).mean()
    errors = [float((approximated(sigma) / limit - 1).abs()) for sigma in (1.0, 0.1, 0.001)]
    assert errors[2] < 1e-2
    assert errors[2] < errors[0]
    assert float(limit / true) == pytest.approx(1, abs=0.25)
