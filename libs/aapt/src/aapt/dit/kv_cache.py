"""`KVCache`: what past latents have left in the network, one row per session, written in place."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

KeysValues = tuple[Float[Tensor, "b m a e"], Float[Tensor, "b m a e"]]
Index = TypeVar("Index", int, Tensor)


@dataclass(frozen=True)
class LayerCache:
    """One layer's part in one pass: row i of the batch is session `slots[i]` at latents `indices[i]`."""

    cache: "KVCache"
    layer: int
    slots: tuple[int, ...]
    indices: tuple[tuple[int, ...], ...]
    is_continued: bool = False  # what the rows hold is read and not written

    @property
    def is_together(self) -> bool:
        """Whether the rows are the first slots in order, all at the same latents: they can be read as one."""
        return self.slots == tuple(range(len(self.slots))) and len(set(self.indices)) == 1

    def write(self, k: Float[Tensor, "b n a e"], v: Float[Tensor, "b n a e"]) -> None:
        """Put each latent's keys and values in its place; what the window has left behind is overwritten."""
        tokens = self.cache.tokens
        if self.is_together:
            every = [(slice(None), slice(len(self.slots)), self.indices[0])]
        else:
            each = enumerate(zip(self.slots, self.indices, strict=True))
            every = [(slice(i, i + 1), slice(slot, slot + 1), indices) for i, (slot, indices) in each]
        for rows, slots, indices in every:
            for n, index in enumerate(indices):
                if not self.cache.keeps(index, newest=indices[-1]):
                    continue
                place = self.cache.place(index) * tokens
                for kept, made in ((self.cache.keys, k), (self.cache.values, v)):
                    kept[self.layer, slots, place : place + tokens] = made[
                        rows, n * tokens : (n + 1) * tokens
                    ]

    def read(self, row: int) -> KeysValues:
        """All that this row's newest latent may see, itself included: a view, in no particular order."""
        slot, newest = self.slots[row], self.indices[row][-1]
        end = self.cache.places_in_use(newest) * self.cache.tokens
        return (
            self.cache.keys[self.layer, slot : slot + 1, :end],
            self.cache.values[self.layer, slot : slot + 1, :end],
        )

    def read_all(self) -> KeysValues:
        """What `read` says of every row, where they are together."""
        end = self.cache.places_in_use(self.indices[0][-1]) * self.cache.tokens
        rows = slice(len(self.slots))
        return self.cache.keys[self.layer, rows, :end], self.cache.values[self.layer, rows, :end]

    def read_before(self) -> KeysValues:
        """All that the rows hold from before this pass, `KVCache.kept` in order: a copy, for training."""
        tokens = self.cache.tokens
        places = [self.cache.place(index) for index in self.cache.kept(self.indices[0][0] - 1)]
        chosen = torch.cat([torch.arange(p * tokens, (p + 1) * tokens) for p in places])
        rows = torch.tensor(self.slots)[:, None]
        return self.cache.keys[self.layer][rows, chosen], self.cache.values[self.layer][rows, chosen]

    def read_text(self, row: int) -> KeysValues:
        """The prompt's keys and values of this row."""
        slot = self.slots[row]
        return (
            self.cache.text_keys[self.layer, slot : slot + 1],
            self.cache.text_values[self.layer, slot : slot + 1],
        )

    def read_all_text(self) -> KeysValues:
        """What `read_text` says of every row, where they are together."""
        rows = slice(len(self.slots))
        return self.cache.text_keys[self.layer, rows], self.cache.text_values[self.layer, rows]


class KVCache:
    """The first latent for good, then a ring of the last `window` and the current one.

    One row per slot, allocated once: nothing is rolled, concatenated or cloned, and shapes never change.
    Keys are stored rotated at their absolute index; attention does not care about the order of keys, so the
    ring is read as it lies.
    """

    def __init__(
        self, *, layers: int, slots: int, window: int, tokens: int, text_tokens: int, heads: int, text_heads:
        int, head_dim: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.slots = slots
        self.window = window
        self.tokens = tokens
        shape = (layers, slots, (window + 2) * tokens, heads, head_dim)
        text_shape = (layers, slots, text_tokens, text_heads, head_dim)
        self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        self.text_keys, self.text_values = (
            torch.zeros(text_shape, device=device, dtype=dtype) for _ in range(2)
        )

    @property
    def size_bytes(self) -> int:
        """Memory of all slots together."""
        kept = (self.keys, self.values, self.text_keys, self.text_values)
        return sum(x.numel() * x.element_size() for x in kept)

    def place(self, index: int) -> int:
        """Where latent `index` (1 or more) lies: the first alone in front, the others round the ring."""
        return 0 if index == 1 else self.ring_place(index)

    def ring_place(self, index: Index) -> Index:
        """Where latent `index` (2 or more) lies; asked with a tensor, answered with one."""
        return 1 + (index - 2) % (self.window + 1)

    def is_full(self, newest: int) -> bool:
        """Whether every place is in use once latent `newest` is written."""
        return self.places_in_use(newest) == self.window + 2

    def places_in_use(self, newest: int) -> int:
        """How many places are filled once latent `newest` is written."""
        return min(newest, self.window + 2)

    def kept(self, newest: int) -> tuple[int, ...]:
        """The latents that are kept once `newest` is written, in order."""
        oldest = max(1, newest - self.window)
        return (*((1,) if oldest > 1 else ()), *range(oldest, newest + 1))

    def keeps(self, index: int, newest: int) -> bool:
        """Whether latent `index` is still kept once `newest` is written."""
        return index == 1 or index >= newest - self.window
