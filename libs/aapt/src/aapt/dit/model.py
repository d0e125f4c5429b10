"""`DiT`: the one network. Wan's block (arXiv:2503.20314) under block-causal attention.

Input of each latent: its noise, the latent before it (recycled), and its controls, side by side in the
channels (paper, section 2.1). The same forward serves whole clips, and single latents with a cache.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aapt.dit.attention import FIRST_INDEX, CrossAttention, Seen, SelfAttention, seen_of, visible
from aapt.dit.embed import CameraEncoder, KeyEncoder, Rope, TimeEmbedding, rope
from aapt.dit.kv_cache import KVCache, LayerCache
from aapt.flow import Time, per_clip
from aapt.parallel import ALONE, SequenceParallel
from aapt.shapes import Controls, Latents, Text

PATCH = 2
MIN_TIME = 0.05  # below this the noise is so small that dividing by it says nothing


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the network.

    predicts_clean: the last layer names the clean latent, and the velocity follows from it as
    (noisy - clean) / t. A narrow network then need not carry the noise through all its layers. Open weights
    that name the velocity itself have this off.
    """

    latent_channels: int
    dim: int
    heads: int
    layers: int
    window: int
    ffn_dim: int
    text_dim: int
    text_tokens: int
    keys: int = 0
    recycles: bool = True  # off: the first picture is all that is ever recycled (paper, appendix E)
    camera_metres_per_unit: float = 0.0  # above 0: the network is steered by camera poses instead of keys
    control_channels: int = 8  # of the key encoder; the camera encoder has 24
    predicts_clean: bool = True

    def __post_init__(self) -> None:
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(
                f"dim {self.dim} does not divide into {self.heads} heads of even width; choose another number"
            )
        if bool(self.keys) == bool(self.camera_metres_per_unit):
            raise ValueError(
                "a network is steered by keys or by a camera: give one of keys, camera_metres_per_unit"
            )

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class CachePass:
    """One pass with a cache: row i of the batch is session `slots[i]` at latents `indices[i]` (ascending).

    is_continued: the pass sees what the rows hold, goes on from there, and leaves them as they are. That is
      how stage 3 learns: no gradient reaches what was there before. All rows must be of one age.
    """

    cache: KVCache
    slots: tuple[int, ...]
    indices: tuple[tuple[int, ...], ...]
    is_continued: bool = False

    def rows(self, span: slice) -> "CachePass":
        """The same for some of the rows."""
        return replace(self, slots=self.slots[span], indices=self.indices[span])

    def layer(self, layer: int) -> LayerCache:
        """The part of `layer` in this pass."""
        return LayerCache(self.cache, layer, self.slots, self.indices, self.is_continued)


@dataclass(frozen=True)
class Moment:
    """A clip's time, and all that it does in the network: six vectors for each block, two for the head.

    The loop that is served asks at t = 1 alone, so it makes this once.
    """

    t: Time
    blocks: tuple[Float[Tensor, "b 6 _"], ...]
    head: Float[Tensor, "b 2 _"]

    def repeated(self, clips: int) -> "Moment":
        """The moment of one clip for several."""
        blocks = tuple(six.expand(clips, -1, -1) for six in self.blocks)
        return Moment(self.t.expand(clips), blocks, self.head.expand(clips, -1, -1))


class Block(nn.Module):
    """Self-attention, attention to text, MLP; the first and the last modulated by time."""

    def __init__(self, config: DiTConfig, parallel: SequenceParallel = ALONE) -> None:
        super().__init__()
        dim = config.dim
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = SelfAttention(dim, config.heads, parallel)
        self.norm_text = nn.LayerNorm(dim, eps=1e-6)
        self.text_attention = CrossAttention(dim, config.heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(dim, config.ffn_dim), nn.GELU("tanh"), nn.Linear(config.ffn_dim, dim)
        )

    def forward(
        self,
        x: Float[Tensor, "b own d"],
        six: Float[Tensor, "b 6 d"],
        turns: Rope,
        seen: Bool[Tensor, "b n m"] | Seen | None,
        text: Float[Tensor, "b l d"] | None,
        cache: LayerCache | None,
        *,
        is_own: bool = False,
    ) -> Float[Tensor, "b own d"]:
        """`six` is what the time gives to every block; is_own: to this one, its own modulation added."""
        six = six if is_own else self.modulation + six
        shift1, scale1, gate1, shift2, scale2, gate2 = six.chunk(6, 1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1, turns, seen, cache)
        x = x + self.text_attention(self.norm_text(x), text, cache)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    """The velocity of latents, given their past, the text and the controls.

    is_checkpointed: set it to make each block's activations again in the backward pass; less memory, a third
      more work.
    """

    def __init__(self, config: DiTConfig, parallel: SequenceParallel = ALONE) -> None:
        super().__init__()
        self.config = config
        self.parallel = parallel
        self.is_checkpointed = False
        self.controls = (
            KeyEncoder(config.keys, config.control_channels)
            if config.keys
            else CameraEncoder(config.camera_metres_per_unit)
        )
        channels = 2 * config.latent_channels + self.controls.channels
        self.patch = nn.Linear(PATCH * PATCH * channels, config.dim)
        self.time = TimeEmbedding(config.dim)
        self.text = nn.Sequential(
            nn.Linear(config.text_dim, config.dim), nn.GELU("tanh"), nn.Linear(config.dim, config.dim)
        )
        self.blocks = nn.ModuleList(Block(config, parallel) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.head_modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, PATCH * PATCH * config.latent_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        noisy: Latents,
        previous: Latents,
        t: Time | Moment,
        text: Text | None,
        controls: Controls,
        index: Int[Tensor, "b t"] | None = None,
        *,
        cache: CachePass | None = None,
        is_causal: bool = True,
    ) -> Latents:
        """Velocity of `noisy`.

        Without a cache, `index` says which latents these are (ascending; none: from 1 on) and `text` is
        needed. With one, `cache.indices` says so; their keys and values are written, and the text is the one
        that `read_text` stored. A pass over several latents with a cache fills an empty row: it sees what is
        in the pass, not the row (but see `CachePass.is_continued`).

        is_causal: off, every latent sees the whole clip, as before stage 1.
        """
        height, width = noisy.shape[-2:]
        left, two = self.hidden(noisy, previous, t, text, controls, index, cache=cache, is_causal=is_causal)
        shift, scale = two.chunk(2, 1)
        made = self.head(self.norm(left[-1]) * (1 + scale) + shift)
        made = _to_latents(self.parallel.gather(made, self.tokens(noisy)), height, width).to(noisy.dtype)
        if not self.config.predicts_clean:
            return made
        time = t.t if isinstance(t, Moment) else t
        return (noisy - made) / per_clip(time.clamp_min(MIN_TIME))

    def hidden(
        self,
        noisy: Latents,
        previous: Latents,
        t: Time | Moment,
        text: Text | None,
        controls: Controls,
        index: Int[Tensor, "b t"] | None = None,
        *,
        cache: CachePass | None = None,
        is_causal: bool = True,
        sees: Bool[Tensor, "b t t"] | None = None,
    ) -> tuple[list[Float[Tensor, "b n _"]], Float[Tensor, "b 2 _"]]:
        """What each block leaves of its tokens, in order, and what the clip's time gives to the head.

        Of all `tokens`, this rank's share (`SequenceParallel.gather` has the others). Arguments as in
        `forward`. sees: which latent sees which, in place of the block-causal rule.
        """
        height, width = noisy.shape[-2:]
        known = self._index(noisy, cache) if index is None else index
        index = known.to(noisy.device)
        if not self.config.recycles:
            previous = previous * (index == FIRST_INDEX)[..., None, None, None]
        maps = self.controls(controls, height, width)
        x = _to_tokens(torch.cat([noisy, previous, maps.to(noisy.dtype)], 2))
        x = self.patch(self.parallel.split(x).to(self.patch.weight.dtype))
        turns = rope(index, height // PATCH, width // PATCH, self.config.head_dim)
        if sees is None and is_causal:
            sees = self._sees(known, cache)
        seen = None if sees is None else seen_of(sees, self.tokens(noisy[:, :1]), noisy.device)
        is_own = isinstance(t, Moment)
        if isinstance(t, Moment):
            sixes, two = t.blocks, t.head
        else:
            vector, six = self.time(t)
            sixes, two = (six,) * len(self.blocks), self.head_modulation + vector[:, None]
        prompt = None if text is None else self.text(text)
        left = []
        for layer, block in enumerate(self.blocks):
            given = (x, sixes[layer], turns, seen, prompt, None if cache is None else cache.layer(layer))
            if self.is_checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, *given, is_own=is_own, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*given, is_own=is_own)
            left.append(x)
        return left, two

    def moment(self, t: Time) -> Moment:
        """`t` for passes that are all at this time: their numbers are the same, and made once."""
        vector, six = self.time(t)
        own = []
        for block in self.blocks:
            assert isinstance(block, Block)
            own.append(block.modulation + six)
        return Moment(t, tuple(own), self.head_modulation + vector[:, None])

    @staticmethod
    def tokens(latents: Latents) -> int:
        """How many tokens a clip of such latents has."""
        return latents.shape[1] * (latents.shape[-2] // PATCH) * (latents.shape[-1] // PATCH)

    def new_cache(
        self, slots: int, height: int, width: int, device: torch.device | str | None = None
    ) -> KVCache:
        """An empty cache for `slots` sessions of latents of this size; each rank has that of its heads.

        device: default that of the weights; "meta" tells the size and takes none.
        """
        config, like = self.config, self.head.weight
        return KVCache(
            layers=config.layers, slots=slots, window=config.window, tokens=(height // PATCH) * (width //
            PATCH), text_tokens=config.text_tokens, heads=self.parallel.own_heads(config.heads),
            text_heads=config.heads, head_dim=config.head_dim, device=device or like.device, dtype=like.dtype,
        )  # fmt: skip

    def read_text(self, text: Text, cache: KVCache, slot: int) -> None:
        """Store a prompt's keys and values in `slot`: once per prompt, not once per latent."""
        prompt = self.text(text)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            k, v = block.text_attention.keys_and_values(prompt)
            cache.text_keys[layer, slot] = k[0]
            cache.text_values[layer, slot] = v[0]

    def _sees(self, index: Int[Tensor, "b t"], cache: CachePass | None) -> Bool[Tensor, "b t s"] | None:
        seen = index
        if cache is not None and cache.is_continued:
            before = cache.cache.kept(cache.indices[0][0] - 1)
            seen = torch.cat([torch.tensor(before, device=index.device).expand(len(index), -1), index], 1)
        elif index.shape[1] == 1:
            return None
        return visible(index, seen, self.config.window)

    def _index(self, noisy: Latents, cache: CachePass | None) -> Int[Tensor, "b t"]:
        # On the CPU: who sees whom is then known without asking a GPU.
        if cache is not None:
            return torch.tensor(cache.indices, device="cpu")
        return torch.arange(FIRST_INDEX, FIRST_INDEX + noisy.shape[1], device="cpu").expand(len(noisy), -1)


def _to_tokens(x: Latents) -> Float[Tensor, "b n p"]:
    return rearrange(x, "b t c (h y) (w x) -> b (t h w) (c y x)", y=PATCH, x=PATCH)


def _to_latents(x: Float[Tensor, "b n p"], height: int, width: int) -> Latents:
    return rearrange(
        x, "b (t h w) (c y x) -> b t c (h y) (w x)", h=height // PATCH, w=width // PATCH, y=PATCH, x=PATCH
    )
