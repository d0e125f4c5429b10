"""Attention, and the one rule of who sees whom."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aapt.dit.embed import Rope, rotate
from aapt.dit.kv_cache import LayerCache
from aapt.parallel import ALONE, SequenceParallel

FIRST_INDEX = 1  # latent 0 is given; the first that is generated is 1, and it stays visible for good
MASKED_TOKENS = 128  # latents of fewer attend under a mask: so many calls would cost more than they save

Seen = tuple[tuple[int, ...], ...]  # for each latent of a pass, in order: which of the latents of its keys


def visible(query: Int[Tensor, "b q"], key: Int[Tensor, "b k"], window: int) -> Bool[Tensor, "b q k"]:
    """The block-causal rule: a latent sees itself, the `window` before it, and the first that was generated.

    Paper, section 2.1: block-causal attention, a sliding window, the first frame always attended. `KVCache`
    keeps exactly the keys for which this is true.
    """
    query, key = query[:, :, None], key[:, None, :]
    return (key == FIRST_INDEX) | ((query - window <= key) & (key <= query))


def is_masked(tokens: int) -> bool:
    """Whether latents of so many tokens are looked at under a mask, where several are passed at once."""
    return tokens < MASKED_TOKENS


def seen_of(sees: Bool[Tensor, "b t s"], tokens: int, device: torch.device) -> Bool[Tensor, "b n m"] | Seen:
    """Who sees whom, as attention takes it: a mask of all tokens or, where a latent has many, `Seen`.

    A mask grows with the square of a clip, and what it hides is multiplied all the same. It stays for small
    latents, and where the clips of a batch do not see alike; ours do: a late one, too, is the first latent
    and then the window.
    """
    if not is_masked(tokens):
        one, *others = sees.tolist()
        if all(other == one for other in others):
            return tuple(tuple(i for i, is_seen in enumerate(row) if is_seen) for row in one)
    return sees.to(device).repeat_interleave(tokens, 1).repeat_interleave(tokens, 2)


def attend(
    q: Float[Tensor, "b n a e"],
    k: Float[Tensor, "b m a e"],
    v: Float[Tensor, "b m a e"],
    mask: Bool[Tensor, "b n m"] | None = None,
) -> Float[Tensor, "b n d"]:
    """Scaled dot-product attention; heads side by side in the result."""
    q, k, v = (rearrange(x, "b n a e -> b a n e") for x in (q, k, v))
    mask = None if mask is None else mask[:, None]
    made = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(made, "b a n e -> b n (a e)")


def attend_one_by_one(
    q: Float[Tensor, "b n a e"], k: Float[Tensor, "b m a e"], v: Float[Tensor, "b m a e"], seen: Seen
) -> Float[Tensor, "b n d"]:
    """Each latent attends to what it sees, and nothing is masked (paper, appendix A: a loop over frames)."""
    tokens = q.shape[1] // len(seen)
    # Of slices, each would send back a gradient as long as the clip.
    keys, values = k.split(tokens, 1), v.split(tokens, 1)
    made = [
        attend(query, torch.cat([keys[i] for i in latents], 1), torch.cat([values[i] for i in latents], 1))
        for query, latents in zip(q.split(tokens, 1), seen, strict=True)
    ]
    return torch.cat(made, 1)


def are_attended_together(q: Tensor, cache: LayerCache) -> bool:
    """Whether sessions of one age share a call: clips in training do, and there a GPU waits for calls.

    On a CPU they never do, so that a session dreams in company what it dreams alone, to the bit.
    """
    return q.is_cuda and cache.is_together


class SelfAttention(nn.Module):
    """Wan's self-attention: queries and keys normalised over all heads together, then rotated."""

    def __init__(self, dim: int, heads: int, parallel: SequenceParallel = ALONE) -> None:
        super().__init__()
        self.heads = heads
        self.parallel = parallel
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm_q = nn.RMSNorm(dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b own d"],
        turns: Rope,
        seen: Bool[Tensor, "b n m"] | Seen | None,
        cache: LayerCache | None,
    ) -> Float[Tensor, "b own d"]:
        """`turns`, `seen` and `cache` are of all tokens, `x` may be one rank's share of them."""
        dim = x.shape[-1]
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (
            rearrange(y, "b n (a e) -> b n a e", a=self.heads) for y in (self.norm_q(q), self.norm_k(k), v)
        )
        q, k, v = self.parallel.to_heads(q, k, v, tokens=turns[0].shape[1])
        q, k = rotate(q, turns), rotate(k, turns)
        if cache is not None and cache.is_continued:
            before_k, before_v = cache.read_before()
            k, v = torch.cat([before_k, k], 1), torch.cat([before_v, v], 1)
        elif cache is not None:
            cache.write(k, v)
        if isinstance(seen, tuple):
            made = attend_one_by_one(q, k, v, seen)
        elif cache is None or seen is not None:
            made = attend(q, k, v, seen)
        elif are_attended_together(q, cache):
            made = attend(q, *cache.read_all())
        else:
            # Each session attends to its own row: nothing is masked, padded or copied.
            made = torch.cat([attend(q[i : i + 1], *cache.read(i)) for i in range(len(q))])
        return self.out(self.parallel.to_tokens(made, dim))


class CrossAttention(nn.Module):
    """Every visual token attends to every text token; keys and values are made once per prompt.

    A rank that has a share of the tokens asks for them alone: text is short, and every rank holds all of it.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.norm_q = nn.RMSNorm(dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(dim, eps=1e-6)
        self.out = nn.Linear(dim, dim)

    def keys_and_values(
        self, text: Float[Tensor, "b l d"]
    ) -> tuple[Float[Tensor, "b l a e"], Float[Tensor, "b l a e"]]:
        """Keys and values of a prompt."""
        k, v = self.kv(text).chunk(2, -1)
        k, v = (rearrange(y, "b l (a e) -> b l a e", a=self.heads) for y in (self.norm_k(k), v))
        return k, v

    def forward(
        self, x: Float[Tensor, "b n d"], text: Float[Tensor, "b l d"] | None, cache: LayerCache | None
    ) -> Float[Tensor, "b n d"]:
        q = rearrange(self.norm_q(self.q(x)), "b n (a e) -> b n a e", a=self.heads)
        if text is not None:
            return self.out(attend(q, *self.keys_and_values(text)))
        assert cache is not None
        if are_attended_together(q, cache):
            return self.out(attend(q, *cache.read_all_text()))
        return self.out(torch.cat([attend(q[i : i + 1], *cache.read_text(i)) for i in range(len(q))]))
