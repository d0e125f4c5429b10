"""`SteadyPass`: one session's pass once its ring is full. No shape and no address changes from step to step.

Which latent it is stands in a tensor on the device, so that a pass that was compiled, or recorded as a CUDA
graph, is right for every latent that follows. Until the ring is full a latent sees more keys each time, and
`CachePass` says in plain numbers which.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aapt.dit.kv_cache import KeysValues, KVCache, LayerCache
from aapt.dit.model import CachePass


@dataclass(frozen=True, kw_only=True)
class SteadyLayer(LayerCache):
    """One layer's row, as views that are made once. tokens: where in them the latent's tokens go."""

    keys: Float[Tensor, "1 m a e"]
    values: Float[Tensor, "1 m a e"]
    text_keys: Float[Tensor, "1 l all e"]
    text_values: Float[Tensor, "1 l all e"]
    tokens: Int[Tensor, " n"]

    @property
    def is_together(self) -> bool:
        return False

    def write(self, k: Float[Tensor, "1 n a e"], v: Float[Tensor, "1 n a e"]) -> None:
        self.keys[:, self.tokens] = k
        self.values[:, self.tokens] = v

    def read(self, row: int) -> KeysValues:
        return self.keys, self.values

    def read_text(self, row: int) -> KeysValues:
        return self.text_keys, self.text_values


@dataclass(frozen=True, kw_only=True)
class SteadyPass(CachePass):
    """What `steady_pass` makes; `DiT.forward` is told the index beside it, as a tensor."""

    layers: tuple[SteadyLayer, ...]

    def layer(self, layer: int) -> LayerCache:
        return self.layers[layer]


def steady_pass(cache: KVCache, slot: int, index: Int[Tensor, "1 1"]) -> SteadyPass:
    """The pass of `slot` over the latent that `index` holds, which is `window` + 2 or later.

    Where its tokens go is computed from the tensor: what is recorded must begin here.
    """
    first = cache.ring_place(index[0]) * cache.tokens
    tokens = first + torch.arange(cache.tokens, device=index.device)
    slots, indices, row = (slot,), (), slice(slot, slot + 1)
    layers = tuple(
        SteadyLayer(
            cache=cache,
            layer=layer,
            slots=slots,
            indices=indices,
            keys=cache.keys[layer, row],
            values=cache.values[layer, row],
            text_keys=cache.text_keys[layer, row],
            text_values=cache.text_values[layer, row],
            tokens=tokens,
        )
        for layer in range(len(cache.keys))
    )
    return SteadyPass(cache=cache, slots=slots, indices=indices, layers=layers)
