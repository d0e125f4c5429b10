"""The gradients of stage 3's one pass are those of a rollout that is differentiated step by step."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import torch
from torch import Tensor

from aapt.dit.kv_cache import KeysValues, KVCache, LayerCache
from aapt.dit.model import CachePass
from aapt.flow import clean_estimate
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.segments import Segment
from tests.aapt.players import noise_clips, restless

CLOSE = 1e-5


@pytest.fixture
def adversarial() -> Adversarial:
    model = restless()
    clips = noise_clips(model)
    return Adversarial(model, model.dit, clips, clips, AdversarialConfig(clips=2, extensions=2))


@dataclass(frozen=True)
class Differentiable(LayerCache):
    """Keys and values of every latent so far, put side by side so that gradients reach them."""

    seen: dict[int, KeysValues] = field(default_factory=dict)

    def write(self, k: Tensor, v: Tensor) -> None:
        self.seen[self.indices[0][0]] = (k, v)

    def read(self, row: int) -> KeysValues:
        kept = [self.seen[i] for i in self.cache.kept(self.indices[0][0])]
        return cast(KeysValues, tuple(torch.cat([kv[n][row : row + 1] for kv in kept], 1) for n in (0, 1)))


@dataclass(frozen=True)
class DifferentiablePass(CachePass):
    layers: tuple[Differentiable, ...] = ()

    def layer(self, layer: int) -> LayerCache:
        return self.layers[layer]


def step_by_step(adversarial: Adversarial, segment: Segment) -> Tensor:
    """The new latents of a segment, each evaluated alone; what is recycled carries no gradient."""
    dit, new = adversarial.model, segment.fake.part(slice(-segment.noise.shape[1], None))
    first = int(new.index[0, 0])
    cache = dit.new_cache(2, 4, 4) if segment.past is None else segment.past.cache
    seen: list[dict[int, KeysValues]] = [{} for _ in dit.blocks]
    if segment.past is not None:
        tokens = cache.tokens
        for index in cache.kept(first - 1):
            span = slice(cache.place(index) * tokens, (cache.place(index) + 1) * tokens)
            for layer, kept in enumerate(seen):
                kept[index] = (cache.keys[layer, :, span].clone(), cache.values[layer, :, span].clone())
    made: list[Tensor] = []
    for n in range(segment.noise.shape[1]):
        previous = made[-1].detach() if made else new.previous[:, :1]
        run = one_pass(cache, first + n, seen)
        t, noise = torch.ones(2), segment.noise[:, n : n + 1]
        predicted = dit(noise, previous, t, new.text, new.controls[:, n : n + 1], cache=run)
        made.append(clean_estimate(noise, predicted, t))
    return torch.cat(made, 1)


def one_pass(cache: KVCache, index: int, seen: list[dict[int, KeysValues]]) -> DifferentiablePass:
    slots, indices = (0, 1), ((index,), (index,))
    layers = tuple(Differentiable(cache, i, slots, indices, seen=kept) for i, kept in enumerate(seen))
    return DifferentiablePass(cache, slots, indices, layers=layers)


def learnt(adversarial: Adversarial, make: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Gradients of a loss that weighs every latent differently."""
    adversarial.model.zero_grad()
    made = make()
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(7))
    (weights * made).sum().backward()
    named = adversarial.model.named_parameters()
    return {"made": made.detach()} | {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("part", [0, 1, 2], ids=["first segment", "extension", "later extension"])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_one_pass_learns_what_a_rollout_that_is_differentiated_step_by_step_learns(
    adversarial: Adversarial, part: int, is_checkpointed: bool
) -> None:
    segment = list(adversarial.play(torch.Generator().manual_seed(3)))[part]
    expected = learnt(adversarial, lambda: step_by_step(adversarial, segment))
    adversarial.model.is_checkpointed = is_checkpointed
    found = learnt(adversarial, lambda: adversarial.again(segment))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.any(), name
        torch.testing.assert_close(found[name], value, atol=CLOSE * float(value.abs().max()), rtol=0)


@pytest.mark.parametrize("part", [0, 1], ids=["first segment", "extension"])
def test_checkpointed_blocks_keep_less_and_learn_the_same(adversarial: Adversarial, part: int) -> None:
    segment = list(adversarial.play(torch.Generator().manual_seed(3)))[part]
    kept, gradients = [], []
    for is_checkpointed in (False, True):
        adversarial.model.is_checkpointed = is_checkpointed
        saved: list[int] = []

        def keep(x: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(x.numel())
            return x

        def make(keep: Callable[[Tensor], Tensor] = keep) -> Tensor:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                return adversarial.again(segment)

        gradients.append(learnt(adversarial, make))
        kept.append(sum(saved))
    assert kept[1] < 0.5 * kept[0]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
