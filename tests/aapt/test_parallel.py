"""A sample that is shared out over ranks: what one computes, two to eight compute, gradients included."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from aapt.checkpoint import Model, untrained
from aapt.dit import attention
from aapt.dit.attention import MASKED_TOKENS
from aapt.dit.discriminator import Discriminator
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import DEBUG, Preset
from aapt.rollout import Past, Rollout
from tests.aapt.ranks import gather_from_ranks

CLOSE = 1e-5
LENGTH = 7  # latents; the window is 4
# 2 heads and 4 tokens a latent: neither divides by 3, nor do the 28 of a clip. 15 tokens do not divide by 2.
WIDE = replace(DEBUG, name="wide", width_px=80, height_px=48)
PRESETS = {preset.name: preset for preset in (DEBUG, WIDE)}


def everything(
    name: str, masked_tokens: int = MASKED_TOKENS, parallel: SequenceParallel | None = None
) -> dict[str, Tensor]:
    """All that the network is asked for in training and in play, by name."""
    parallel = parallel or SequenceParallel(dist.group.WORLD)
    model = network(PRESETS[name], parallel)
    with patch.object(attention, "MASKED_TOKENS", masked_tokens):
        return {
            **clips_and_gradients(model),
            **rollouts(model),
            **continued_pass(model),
            **discriminated(model),
            **moved(model, parallel),
        }


def moved(model: Model, parallel: SequenceParallel) -> dict[str, Tensor]:
    """What a step sends beyond what Ulysses must, where tokens and heads divide: nothing."""
    preset, ranks = model.preset, dist.get_world_size() if dist.is_initialized() else 1
    config = preset.dit
    tokens = (preset.height_px // 16) * (preset.width_px // 16)
    rollout = Rollout(model, 1)
    rollout.open(0, None, "a test", 5)
    before = parallel.sent_bytes
    rollout.step({0: torch.zeros(4, 4)})
    own, heads = -(-tokens // ranks), -(-config.heads // ranks)
    of_layers = config.layers * own * heads * config.head_dim * 4  # q, k, v and what attention made
    least = 4 * (ranks - 1) * (of_layers + own * 4 * config.latent_channels)
    return {"sent needlessly": torch.tensor(parallel.sent_bytes - before - least)}


def network(preset: Preset, parallel: SequenceParallel) -> Model:
    model = untrained(preset, parallel=parallel)
    torch.manual_seed(1)
    nn.init.normal_(model.dit.head.weight, std=0.2)  # a fresh network answers zero to everything
    return model


def given(model: Model, clips: int, latents: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    preset = model.preset
    shape = (clips, latents, 4, preset.height_px // 8, preset.width_px // 8)
    noisy, previous = (torch.randn(shape, generator=random) for _ in range(2))
    controls = torch.randint(0, 2, (clips, latents, 4, 4), generator=random).float()
    text = torch.stack([model.text.encode(prompt) for prompt in ("a test", "other words")[:clips]])
    return noisy, previous, torch.rand(clips, generator=random), text, controls


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """Their mean over the ranks, as training takes it."""
    found = {}
    for name, p in network.named_parameters():
        if p.grad is None:
            continue
        if dist.is_initialized():
            dist.all_reduce(p.grad, dist.ReduceOp.SUM)
            p.grad /= dist.get_world_size()
        found[name] = p.grad
        p.grad = None
    return found


def clips_and_gradients(model: Model) -> dict[str, Tensor]:
    found = {}
    for is_checkpointed in (False, True):
        model.dit.is_checkpointed = is_checkpointed
        made = model.dit(*given(model, 2, LENGTH))
        made.square().mean().backward()
        stage = f"clip checkpointed {is_checkpointed}"
        found[stage] = made.detach()
        found |= {f"{stage} {name}": grad for name, grad in gradients(model.dit).items()}
    return found


def rollouts(model: Model) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    held = {i: torch.randint(0, 2, (4, 4), generator=random).float() for i in range(1, 10)}
    rollout = Rollout(model, 3)
    latents = {0: rollout.open(2, None, "a test", 5)}
    for i in range(1, 4):
        latents[i] = rollout.step({2: held[i]})[2]
    rollout.open(0, None, "somebody else", 6)  # younger, in the same steps
    others = []
    for i in range(4, 10):
        made = rollout.step({0: held[i], 2: held[i]})
        latents[i] = made[2]
        others.append(made[0])
    taken_up = Rollout(model, 1)
    taken_up.resume(0, Past({i: latents[i] for i in range(4)}, held), "a test", 5)
    resumed = [taken_up.step({0: held[i]})[0] for i in range(4, 10)]
    return {
        "rollout": torch.stack([*latents.values()]),
        "somebody else": torch.stack(others),
        "resumed": torch.stack(resumed),
    }


def continued_pass(model: Model) -> dict[str, Tensor]:
    rollout = Rollout(model, 2)
    for slot in range(2):
        rollout.open(slot, None, "a test", slot)
    for _ in range(6):
        rollout.step({slot: torch.ones(4, 4) for slot in range(2)})
    noisy, previous, t, _, controls = given(model, 2, 3)
    made = model.dit(noisy, previous, t, None, controls, cache=rollout.next_pass(3))
    made.square().mean().backward()
    return {"continued": made.detach(), **{f"continued {n}": g for n, g in gradients(model.dit).items()}}


def discriminated(model: Model) -> dict[str, Tensor]:
    torch.manual_seed(4)
    judge = Discriminator(model.dit)
    noisy, previous, t, text, controls = given(model, 2, LENGTH)
    noisy.requires_grad_()
    shown = (noisy, previous[:, 0], t, text, controls, torch.arange(1, LENGTH + 1).repeat(2, 1))
    logits = torch.cat([judge(*shown), judge(*shown, after=previous)])
    logits.square().mean().backward()
    assert noisy.grad is not None
    if dist.is_initialized():  # every rank has what its own tokens have given
        dist.all_reduce(noisy.grad)
        noisy.grad /= dist.get_world_size()
    return {
        "logits": logits.detach(),
        "shown": noisy.grad,
        **{f"judge {n}": g for n, g in gradients(judge).items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "name", "masked_tokens"),
    [
        (2, "wide", MASKED_TOKENS),
        (3, "debug", MASKED_TOKENS),
        (3, "wide", 0),
        (4, "wide", MASKED_TOKENS),
        (8, "debug", MASKED_TOKENS),
    ],
    ids="{}".format,
)
def test_ranks_that_share_a_sample_compute_what_one_computes(
    ranks: int, name: str, masked_tokens: int, tmp_path: Path
) -> None:
    expected = everything(name, parallel=ALONE)
    for found in gather_from_ranks(ranks, everything, tmp_path, name, masked_tokens):
        assert found.keys() == expected.keys()
        for what, value in expected.items():
            torch.testing.assert_close(found[what], value, atol=CLOSE, rtol=CLOSE, msg=what)
