"""The codec's layers. One that looks back in time takes its past in and hands it on: no hidden state."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Tail = Float[Tensor, "b _ y x"]  # the last latent frame that a causal convolution has seen
Tails = list[Tail]  # one per causal convolution, in the order of the decoder


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a short cut, each frame for itself.

    There is no normalisation: the second convolution starts small instead, which keeps training stable
    and streaming exact.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.2)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        act = nn.functional.silu
        return x + self.second(act(self.first(act(x))))


class CausalConv(nn.Module):
    """3x3 in space, 2 in time: this latent frame and the one before it."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels_in, channels_out, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b t c y x"], tail: Tail | None = None
    ) -> tuple[Float[Tensor, "b t d y x"], Tail]:
        """Convolve `x`, which follows `tail`. Before the first frame, time is padded with the first frame."""
        before = x[:, :1] if tail is None else tail.unsqueeze(1)
        pairs = torch.cat([torch.cat([before, x[:, :-1]], 1), x], 2)
        made = self.conv(rearrange(pairs, "b t c h w -> (b t) c h w"))
        return rearrange(made, "(b t) c h w -> b t c h w", b=len(x)), x[:, -1]
