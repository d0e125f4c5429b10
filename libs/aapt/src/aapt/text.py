"""Prompts as vectors, by a frozen encoder.

`HashedWords` needs no weights: every word is a random direction that its spelling alone decides. It tells
prompts apart but knows no meaning, which is what a world with a handful of captions needs.
"""

import re
import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class HashedWords:
    """The first `tokens` words of a prompt, each a fixed random vector of `dim`; the rest of the rows are
    zero."""

    tokens: int
    dim: int

    def encode(self, prompt: str) -> Float[Tensor, "l d"]:
        """The prompt as `tokens` rows. The same prompt always gives the same rows, on every machine."""
        rows = torch.zeros(self.tokens, self.dim)
        for row, word in zip(rows, re.findall(r"\w+", prompt.lower()), strict=False):
            random = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            row.copy_(torch.randn(self.dim, generator=random))
        return rows
