"""`SequenceParallel`: one sample on several devices (DeepSpeed-Ulysses, arXiv:2309.14509).

Outside attention every rank holds a share of the tokens and all heads; inside it holds all tokens and a share
of the heads. Queries, keys and values change sides in one exchange, what attention made in another.
"""

from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


class SequenceParallel:
    """Tokens shared out over the ranks of `group`, heads inside attention; with no group, the identity.

    Tokens or heads that do not divide are padded with zeros, which nobody attends to and which are cut off
    again. All ranks of a group give the same whole input and get the same whole result.

    Every exchange has its own true gradient, that of the sum of all ranks' losses. The *mean* of a
    parameter's gradients over the ranks is therefore the gradient of the one loss, whether the work was
    shared out (blocks) or done by all (what stands before `split` and behind `gather`).

    sent_bytes: what this rank has sent to others in forward passes, so far.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self._ranks = 1 if group is None else group.size()
        self._rank = 0 if group is None else group.rank()
        self.sent_bytes = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "SequenceParallel":
        return self  # a copy of a network works with the same ranks

    @property
    def ranks(self) -> int:
        """How many share a sample."""
        return self._ranks

    def own_heads(self, heads: int) -> int:
        """How many of `heads` one rank attends with."""
        return -(-heads // self._ranks)

    def split(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b own d"]:
        """This rank's share of all tokens, which every rank holds."""
        if self._ranks == 1:
            return x
        return rearrange(self._padded(x), "b (r n) d -> r b n d", r=self._ranks)[self._rank]

    def gather(self, x: Float[Tensor, "b own d"], tokens: int) -> Float[Tensor, "b n d"]:
        """All `tokens`, on every rank, from the share of each."""
        if self._ranks == 1:
            return x
        shares = self._exchange(x.expand(self._ranks, *x.shape))
        return rearrange(shares, "r b n d -> b (r n) d")[:, :tokens]

    def to_heads(
        self, q: Float[Tensor, "b own a e"], k: Float[Tensor, "b own a e"], v: Float[Tensor, "b own a e"],
        tokens: int,
    ) -> tuple[Float[Tensor, "b n h e"], Float[Tensor, "b n h e"], Float[Tensor, "b n h e"]]:  # fmt: skip
        """All `tokens` of this rank's heads, from this rank's tokens of all heads."""
        if self._ranks == 1:
            return q, k, v
        qkv = torch.stack([q, k, v])
        heads = self.own_heads(qkv.shape[-2]) * self._ranks
        qkv = pad(qkv, (0, 0, 0, heads - qkv.shape[-2]))
        parts = self._exchange(rearrange(qkv, "s b n (r h) e -> r s b n h e", r=self._ranks))
        q, k, v = rearrange(parts, "r s b n h e -> s b (r n) h e")[:, :, :tokens]
        return q, k, v

    def to_tokens(self, made: Float[Tensor, "b n _"], dim: int) -> Float[Tensor, "b own {dim}"]:
        """This rank's tokens of all heads, `dim` wide, from all tokens of this rank's heads."""
        if self._ranks == 1:
            return made
        parts = self._exchange(rearrange(self._padded(made), "b (r n) d -> r b n d", r=self._ranks))
        return rearrange(parts, "r b n d -> b n (r d)")[..., :dim]

    def _padded(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b padded d"]:
        return pad(x, (0, 0, 0, -x.shape[1] % self._ranks))

    def _exchange(self, parts: Tensor) -> Tensor:
        self.sent_bytes += parts.nbytes // self._ranks * (self._ranks - 1)
        return _Exchange.apply(parts, self._group)


ALONE = SequenceParallel()


class _Exchange(torch.autograd.Function):
    """Part i of every rank goes to rank i. The same again brings all back, gradients too."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradients[0], ctx.group), None


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself (AMX): ten times faster than float32.

    A processor that emulates it is seventy times slower.
    """
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
