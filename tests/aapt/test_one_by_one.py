"""Latents that attend one by one make what they make under a mask, gradients too."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aapt.checkpoint import Model
from aapt.dit import attention
from aapt.dit.attention import MASKED_TOKENS, attend_one_by_one, seen_of, visible
from aapt.dit.discriminator import Discriminator
from aapt.rollout import Rollout
from tests.aapt.players import noise_clips, restless

CLOSE = 1e-5
CPU = torch.device("cpu")
BOTH_WAYS = (1 << 30, 0)  # under a mask whatever the size, and one by one


def with_window(window: int) -> Model:
    model = restless()
    model.dit.config = replace(model.dit.config, window=window)
    return model


def both_ways(network: nn.Module, run: Callable[[], Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """What `run` makes, and the gradients that it leaves in `network`."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        for masked_tokens in BOTH_WAYS:
            patch.setattr(attention, "MASKED_TOKENS", masked_tokens)
            network.zero_grad()
            result = run()
            result.square().mean().backward()
            found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
            made.append((result.detach(), found))
            assert found
    return made


def are_close(made: list[tuple[Tensor, dict[str, Tensor]]]) -> None:
    masked, one_by_one = made
    torch.testing.assert_close(one_by_one, masked, atol=CLOSE, rtol=CLOSE)


@settings(deadline=None, max_examples=30)
@given(
    window=st.integers(0, 6), length=st.integers(2, 10), late=st.sampled_from([0.0, 0.5, 1.0]),
    is_under_way=st.booleans(), is_checkpointed=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_clips_early_and_late_are_passed_alike_both_ways(
    window: int, length: int, late: float, is_under_way: bool, is_checkpointed: bool, seed: int
) -> None:
    model, random = with_window(window), torch.Generator().manual_seed(seed)
    model.dit.is_checkpointed = is_checkpointed
    clips = noise_clips(model)
    batch = clips.middle(random, 2, length) if is_under_way else clips.batch(random, 2, length, late)
    seen = seen_of(visible(batch.index, batch.index, window), MASKED_TOKENS, CPU)
    assert isinstance(seen, tuple), "late clips see as early ones do, so none needs a mask"
    noise, t = torch.randn(batch.latents.shape, generator=random), torch.rand(2, generator=random)
    shown = (noise, batch.previous, t, batch.text, batch.controls, batch.index)
    are_close(both_ways(model.dit, lambda: model.dit(*shown)))


@settings(deadline=None, max_examples=10)
@given(window=st.integers(1, 5), played=st.integers(1, 9), length=st.integers(1, 6))
def test_a_pass_that_goes_on_from_a_cache_sees_alike_both_ways(window: int, played: int, length: int) -> None:
    model, random = with_window(window), torch.Generator().manual_seed(played)
    rollout = Rollout(model, 2)
    for slot in range(2):
        rollout.open(slot, None, "a test", slot)
    for _ in range(played):
        rollout.step({slot: torch.ones(4, 4) for slot in range(2)})
    noise, previous = (torch.randn(2, length, 4, 4, 4, generator=random) for _ in range(2))
    given = (noise, previous, torch.ones(2), None, torch.ones(2, length, 4, 4))
    past = rollout.next_pass(length)
    are_close(both_ways(model.dit, lambda: model.dit(*given, cache=past)))


@pytest.mark.parametrize("judges", [{}, {"after": True}, {"is_causal": False}], ids=str)
def test_the_discriminator_judges_alike_both_ways(judges: dict[str, Any]) -> None:
    model, random = restless(), torch.Generator().manual_seed(0)
    torch.manual_seed(4)
    judge = Discriminator(model.dit, is_causal=judges.get("is_causal", True))
    batch = noise_clips(model).batch(random, 2, 8, late=0.5)
    after = torch.randn(batch.latents.shape, generator=random) if judges.get("after") else None
    shown = (batch.latents, batch.first, torch.rand(2), batch.text, batch.controls, batch.index)
    are_close(both_ways(judge, lambda: judge(*shown, after=after)))


def test_small_latents_and_clips_that_do_not_see_alike_keep_the_mask() -> None:
    early, odd = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 3, 4, 9]])
    alike, apart = (visible(index, index, 2) for index in (early, torch.cat([early, odd])))
    assert seen_of(alike, MASKED_TOKENS, CPU) == ((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3))
    for sees, tokens in ((alike, MASKED_TOKENS - 1), (apart, MASKED_TOKENS)):
        mask = seen_of(sees, tokens, CPU)
        assert isinstance(mask, Tensor)
        assert torch.equal(mask[:, ::tokens, ::tokens], sees)
        assert mask.float().mean() == sees.float().mean()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_latents_one_by_one_multiply_what_is_seen_and_nothing_else(device: str) -> None:
    index, tokens = torch.arange(1, 21)[None], 8
    sees = visible(index, index, 4)
    seen = seen_of(sees, MASKED_TOKENS, CPU)
    assert isinstance(seen, tuple)
    q = torch.empty(1, 20 * tokens, 2, 16, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        attend_one_by_one(q, q, q, seen)
    assert counter.get_total_flops() == 4 * int(sees.sum()) * tokens**2 * 2 * 16


COMPILED = """
import copy
import torch
from aapt.dit import attention
from tests.aapt.players import noise_clips, restless
attention.MASKED_TOKENS = 0
dit, clips = restless().dit, noise_clips(restless())
twin = copy.deepcopy(dit)
twin.compile(backend="aot_eager")
for length, late in ((7, 0.5), (4, 0.0)):
    batch = clips.batch(torch.Generator().manual_seed(0), 2, length, late)
    shown = (batch.latents, batch.previous, torch.rand(2), batch.text, batch.controls, batch.index)
    made = [network(*shown) for network in (dit, twin)]
    torch.testing.assert_close(made[1], made[0], atol=1e-5, rtol=1e-5)
    for one in made:
        one.square().mean().backward()
    for own, its in zip(dit.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(its.grad, own.grad, atol=1e-5, rtol=1e-5)
"""


@pytest.mark.slow
def test_a_compiled_network_passes_clips_one_by_one() -> None:
    # In a process of its own: the checks of shapes that tests install are no code to compile.
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300, cwd=Path(__file__).parents[2])
