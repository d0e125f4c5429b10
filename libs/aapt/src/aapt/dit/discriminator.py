"""`Discriminator`: the generator's own architecture, saying how real each latent is (paper, section 2.2).

Frames take the place of the noise, and the recycled channels hold the frame before: a logit is a function of
the video alone, so that the generator feels all that it depends on, and the penalties hold all of it. Heads
at three depths look at a latent's tokens with one learnt query each (APT, arXiv:2501.08316); what they saw is
put side by side and becomes one number.
"""

import copy
import math
from contextlib import AbstractContextManager, nullcontext

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from aapt.dit.attention import CrossAttention, visible
from aapt.dit.model import DiT
from aapt.flow import Time
from aapt.shapes import Controls, Latents, Text

DEPTHS = (16 / 36, 26 / 36, 1.0)  # of all blocks; after these a head looks


class Head(nn.Module):
    """One learnt query that looks at tokens: attention, then an MLP, both residual."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) / dim**0.5)
        self.attention = CrossAttention(dim, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim)
        )

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        query = repeat(self.query, "1 1 d -> b 1 d", b=len(tokens))
        x = query + self.attention(query, tokens, None)
        return (x + self.mlp(x))[:, 0]


class Discriminator(nn.Module):
    """One logit for each latent, or one for the clip; higher is more real. Latent 0 is given and not judged.

    is_causal: off, every latent is judged in view of the whole clip. judges_latents: off, one logit a clip. A
    public rebuild of the recipe (arXiv:2606.03972) got a static video with both on, the paper did not.
    """

    def __init__(self, adapted: DiT, *, is_causal: bool = True, judges_latents: bool = True) -> None:
        super().__init__()
        config = adapted.config
        self.is_causal = is_causal
        self.judges_latents = judges_latents
        self.backbone = copy.deepcopy(adapted)
        self.depths = tuple(math.ceil(config.layers * share) for share in DEPTHS)
        self.heads = nn.ModuleList(Head(config.dim, config.heads) for _ in self.depths)
        self.judge = nn.Sequential(
            nn.LayerNorm(len(self.depths) * config.dim), nn.Linear(len(self.depths) * config.dim, 1)
        )

    def forward(
        self,
        shown: Latents,
        before: Float[Tensor, "b c y x"],
        t: Time,
        text: Text,
        controls: Controls,
        index: Int[Tensor, "b t"],
        *,
        after: Latents | None = None,
    ) -> Float[Tensor, "b judged"]:
        """Logits of `shown`, each latent under its own conditions; `t` is free, as in APT.

        before: the latent before the first that is shown, or the first picture.
        after: latents of the same clip that each shown one is judged as following, in place of the shown ones
          before it. Teacher-forced students are judged so (paper, appendix D); needs the causal kind.
        """
        length, sees = shown.shape[1], None
        lived = shown if after is None else after
        previous = torch.cat([before[:, None], lived[:, :-1]], 1)
        if after is not None:
            sees = _after(index, self.backbone.config.window)
            shown, previous, controls = (
                torch.cat(pair, 1) for pair in ((after, shown), (previous, previous), (controls, controls))
            )
            index = torch.cat([index, index], 1)
        left, _ = self.backbone.hidden(
            shown, previous, t, text, controls, index, is_causal=self.is_causal, sees=sees
        )
        judged = length if self.judges_latents else 1
        parallel, tokens = self.backbone.parallel, self.backbone.tokens(shown)
        # The penalty looks at differences of a thousandth, which bfloat16 would round away.
        with _full_precision(shown.device.type):
            seen = []
            for depth, head in zip(self.depths, self.heads, strict=True):
                whole = parallel.gather(left[depth - 1].to(shown.dtype), tokens)
                clip = whole.unflatten(1, (shown.shape[1], -1))[:, -length:]
                seen.append(head(rearrange(clip, "b (j t) n d -> (b j) (t n) d", j=judged)))
            logits = self.judge(torch.cat(seen, -1))
        return rearrange(logits, "(b j) 1 -> b j", j=judged)


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    # The cost model counts on a device without numbers, which knows no autocast.
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _after(index: Int[Tensor, "b t"], window: int) -> Bool[Tensor, "b s s"]:
    """Of a clip twice, once as it was and once as it is shown: all see what was before, and themselves."""
    rule = visible(index, index, window)
    itself = torch.eye(index.shape[1], dtype=torch.bool, device=index.device).expand_as(rule)
    none = torch.zeros_like(rule)
    return torch.cat([torch.cat([rule, none], 2), torch.cat([rule & ~itself, itself], 2)], 1)
