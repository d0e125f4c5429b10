"""Clips that are passed in parts teach what they teach together."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import Distill, DistillConfig
from aapt.train.loop import Stage
from aapt.train.parts import spans
from aapt.train.pretrain import Pretrain, PretrainConfig
from tests.aapt.players import noise_clips, restless

CLIPS, LENGTH = 3, 5

STAGES: dict[str, tuple[Callable[..., Stage[Any]], object]] = {
    "pretrain": (Pretrain, PretrainConfig(CLIPS, LENGTH)),
    "adapt": (Adapt, AdaptConfig(CLIPS, LENGTH, late=0.4, history_noise=0.1, own_history=1.0, own_steps=2)),
    "distill": (Distill, DistillConfig(CLIPS, LENGTH, grid_steps=4, own_history=0.7)),
    "adversarial": (
        Adversarial,
        AdversarialConfig(CLIPS, LENGTH, extensions=1, penalty=1.0, anchor=1.0, mismatched=1.0),
    ),
    "late": (Adversarial, AdversarialConfig(CLIPS, LENGTH, late=1.0, penalty=1.0)),
    "by sight": (Adversarial, AdversarialConfig(CLIPS, LENGTH, extensions=1, penalty=1.0, by_sight=1.0)),
    "teacher-forced": (Adversarial, AdversarialConfig(CLIPS, LENGTH, penalty=1.0, teacher_forced=True)),
}


def learnt(name: str, micro_clips: int) -> dict[str, Any]:
    """Numbers and gradients of every turn of one step, and how many clips were passed at once."""
    model = restless()
    clips = noise_clips(model)
    kind, config = STAGES[name]
    adapted = (model.dit,) if kind is Adversarial else ()
    torch.manual_seed(0)  # the heads of the discriminator begin at random
    sighted = {"sighted": clips} if kind is Adversarial else {}
    stage = kind(model, *adapted, clips, clips, config, micro_clips=micro_clips, **sighted)
    generator = torch.Generator().manual_seed(3)
    drawn = stage.draw(generator)
    passed: list[int] = []
    stage.model.register_forward_pre_hook(lambda _, given: passed.append(len(given[0])))
    found: dict[str, Any] = {}
    for turn in stage.turns:
        turn.network.zero_grad()
        found |= {f"{turn.name} {n}": torch.tensor(v) for n, v in turn.learn(drawn, generator).items()}
        found |= {
            f"{turn.name} {n}": p.grad for n, p in turn.network.named_parameters() if p.grad is not None
        }
    return found | {"at once": max(passed)}


@pytest.mark.parametrize("name", STAGES)
def test_a_step_in_parts_has_the_losses_and_gradients_of_the_undivided_one(name: str) -> None:
    whole, parts = learnt(name, 0), learnt(name, 2)
    assert (whole.pop("at once"), parts.pop("at once")) == (CLIPS, 2)
    assert whole.keys() == parts.keys()
    for at, value in whole.items():
        close = 1e-5 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(parts[at], value, atol=close, rtol=1e-4, msg=at)


def test_clips_are_passed_in_order_and_the_last_part_may_be_smaller() -> None:
    assert list(spans(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(spans(5, 0)) == list(spans(5, 9)) == [slice(0, 5)]
    with pytest.raises(ValueError, match="-1 clips at once teach nothing; choose 1 or more"):
        list(spans(5, -1))
