"""What a step of training holds on one GPU: as `aapt.train` passes, shares and keeps things.

Weights (kept or gathered), gradients, caches and what blocks leave are float32; bfloat16 is what multiplies.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aapt.dit.attention import is_masked
from aapt.dit.discriminator import DEPTHS, Head
from aapt.dit.model import Block
from aapt.plan.count import Count, seen_latents
from aapt.presets import Preset

FLOAT32, BFLOAT16 = 4, 2


class HeldBytes(TorchDispatchMode):
    """Bytes of the tensors that were made inside and live still; most_bytes: at their most."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = operation(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                self._hold(x.untyped_storage(), before)
        return made

    def _hold(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key = id(storage)
        if key in before or key in self._known:
            return
        self._known.add(key)
        self.bytes += storage.nbytes()
        self.most_bytes = max(self.most_bytes, self.bytes)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


@dataclass(frozen=True)
class Leaves:
    """Bytes for each token: kept from a pass until its backward, and at the most while that is under way."""

    kept: float
    most: float


@cache
def block_leaves(preset: Preset, *, bfloat16: bool) -> Leaves:
    """Of one block whose tokens all attend to all, its own input aside, which a checkpointed pass keeps."""
    config = preset.dit

    def passed(tokens: int) -> Callable[[], Tensor]:
        block = Block(config)
        x = torch.empty(1, tokens, config.dim, requires_grad=True)
        six, text = torch.empty(1, 6, config.dim), torch.empty(1, config.text_tokens, config.dim)
        turns = (torch.empty(1, tokens, 1, config.head_dim // 2),) * 2
        return lambda: block(x, six, turns, None, text, None)

    return _leaves(passed, bfloat16=bfloat16)


@cache
def head_leaves(preset: Preset) -> Leaves:
    """Of one head of the discriminator, which looks at all tokens, in float32 and without a checkpoint."""

    def passed(tokens: int) -> Callable[[], Tensor]:
        head = Head(preset.dit.dim, preset.dit.heads)
        x = torch.empty(1, tokens, preset.dit.dim, requires_grad=True)
        return lambda: head(x.clone())  # gathered from all ranks

    return _leaves(passed, bfloat16=False)


@cache
def block_weights(preset: Preset) -> int:
    """Parameters of all blocks."""
    with torch.device("meta"):
        return preset.dit.layers * sum(p.numel() for p in Block(preset.dit).parameters())


def pass_bytes(count: Count, latents: int, sequence: int, *, after: int = 0, bfloat16: bool = True) -> float:
    """One checkpointed pass over a clip and its backward: the inputs of all blocks, one block at work, and
    what attention needs to see no more than it should.

    That is the keys and values that each latent sees, put side by side; or of small latents the mask, which
    every GPU holds whole: a byte for each pair, and once more as numbers for attention.

    sequence: GPUs that share the clip. after: latents before it.
    """
    config, tokens = count.preset.dit, count.tokens * latents
    kept = min(after, config.window + 2)
    inputs = FLOAT32 * (config.layers + 1) * config.dim * tokens / sequence
    past = 2 * FLOAT32 * 2 * config.dim * kept * count.tokens / sequence  # a layer's, copied and put in front
    number = BFLOAT16 if bfloat16 else FLOAT32
    if is_masked(count.tokens):
        seeing: float = tokens * (tokens + kept * count.tokens) * (1 + number)
    else:
        seen = sum(seen_latents(config.window, latents, after))
        seeing = 2 * number * config.dim * seen * count.tokens / sequence
    at_work = block_leaves(count.preset, bfloat16=bfloat16).most * tokens / sequence
    return inputs + past + seeing + at_work


def judged_bytes(count: Count, latents: int, sequence: int, *, bfloat16: bool = True) -> float:
    """One pass of the discriminator over a clip: its heads look at all tokens on every GPU."""
    heads = len(DEPTHS) * head_leaves(count.preset).kept * count.tokens * latents
    return pass_bytes(count, latents, sequence, bfloat16=bfloat16) + heads


def session_bytes(count: Count, sequence: int) -> float:
    """The cache of one clip that is played: keys and values shared out by heads, those of the text whole."""
    return FLOAT32 * (count.cache / sequence + count.text_cache)


def learner_bytes(weights: int, gpus: int, moments: int, *, is_accumulated: bool) -> float:
    """A network that learns: what is kept of its weights and of the optimizer, and its gradients, of which
    each GPU has all while they are added up over several passes."""
    return FLOAT32 * weights * ((1 + moments) / gpus + (1 if is_accumulated else 1 / gpus))


def gathered_bytes(count: Count, gpus: int) -> float:
    """The network that plays, which stays gathered for a step, and two blocks of another that passes."""
    blocks, layers = block_weights(count.preset), count.preset.dit.layers
    return 0.0 if gpus == 1 else FLOAT32 * (count.dit_weights + 2 * blocks / layers)


def _leaves(passed: Callable[[int], Callable[[], Tensor]], *, bfloat16: bool) -> Leaves:
    few, many = 1 << 14, 1 << 15  # by far more than what does not grow with them
    found = []
    with FakeTensorMode():
        for tokens in (few, many):
            run = passed(tokens)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16), HeldBytes() as held:
                made = run()
                kept = held.bytes
            gradient = torch.ones_like(made)
            with held:
                made.backward(gradient)
            found.append((kept, held.most_bytes))
    kept, most = ((b - a) / (many - few) for a, b in zip(*found, strict=True))
    return Leaves(kept, most)
