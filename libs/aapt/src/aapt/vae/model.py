"""`VideoVAE`: a small causal video codec, 4x in time and 8x in space; the first frame stands alone.

A clip of 1 + 4·k frames becomes 1 + k latents. Latent 0 holds the first frame, latent i the frames 4i-3 ..
4i. The encoder sees one latent's frames at a time, so a latent does not depend on where a recording was
cut; the decoder also sees the latents before, so motion is continuous from one latent to the next.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from aapt.shapes import FRAMES_PER_LATENT, SPATIAL_REDUCTION, Latents, Video
from aapt.vae.blocks import CausalConv, ResidualBlock, Tails


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the codec; channels are named for the resolution they work at."""

    latent_channels: int = 12
    encoder_channels: tuple[int, int, int] = (32, 64, 160)  # at 1/2, 1/4, 1/8
    decoder_channels: tuple[int, int, int] = (160, 48, 24)  # at 1/8, 1/4, 1/2
    trunk_blocks: int = 3


class VideoVAE(nn.Module):
    """Encode and decode whole clips; `StreamingVAE` decodes a session latent by latent."""

    mean: Tensor
    std: Tensor
    looks_back = 2  # frames depend on so many latents before their own: one a causal convolution

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("std", torch.ones(config.latent_channels))
        for parameter in self.parameters():
            if parameter.ndim == 4:  # twice as fast on CPUs
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    def encode(self, video: Video) -> Latents:
        """The normalised mean of the posterior of `video`, [b, 1 + 4k, 3, h, w]."""
        mean, _ = self.posterior(video)
        return (mean - self._per_channel(self.mean)) / self._per_channel(self.std)

    def decode(self, latents: Latents) -> Video:
        """Latents 0..k of a clip to its 1 + 4k frames."""
        return self.decode_after(latents, None)[0]

    def decode_after(self, latents: Latents, tails: Tails | None) -> tuple[Video, Tails]:
        """Decode `latents` that follow those which left `tails` (None: they begin a clip)."""
        raw = latents * self._per_channel(self.std) + self._per_channel(self.mean)
        video, new_tails = self.decoder(raw, tails)
        # The first latent decodes to one frame, not four: its frames are one picture repeated.
        return (video[:, FRAMES_PER_LATENT - 1 :] if tails is None else video), new_tails

    def posterior(self, video: Video) -> tuple[Latents, Latents]:
        """Mean and log variance before normalisation.

        Raises ValueError where the clip's length is not 1 + 4k or its sides do not divide by 8.
        """
        frames, height, width = video.shape[1], video.shape[3], video.shape[4]
        if frames % FRAMES_PER_LATENT != 1 or height % SPATIAL_REDUCTION or width % SPATIAL_REDUCTION:
            raise ValueError(
                f"a clip of {frames} frames of {width}x{height} cannot be encoded; it needs 1 + 4k frames"
                " and sides that divide by 8"
            )
        first = repeat(video[:, :1], "b 1 c h w -> b f c h w", f=FRAMES_PER_LATENT)
        groups = rearrange(
            torch.cat([first, video[:, 1:]], 1), "b (t f) c h w -> b t (f c) h w", f=FRAMES_PER_LATENT
        )
        mean, log_variance = self.encoder(groups).chunk(2, 2)
        return mean, log_variance.clamp(-20, 4)

    def _per_channel(self, values: Tensor) -> Float[Tensor, "c 1 1"]:
        return values[:, None, None]


class Encoder(nn.Module):
    """Four frames side by side in the channels, folded three times by two."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        half, quarter, eighth = config.encoder_channels
        fold = nn.PixelUnshuffle(2)
        self.layers = nn.Sequential(
            fold,
            nn.Conv2d(4 * 3 * FRAMES_PER_LATENT, half, 3, padding=1),
            ResidualBlock(half),
            fold,
            nn.Conv2d(4 * half, quarter, 3, padding=1),
            ResidualBlock(quarter),
            fold,
            nn.Conv2d(4 * quarter, eighth, 3, padding=1),
            *[ResidualBlock(eighth) for _ in range(2)],
            nn.SiLU(),
            nn.Conv2d(eighth, 2 * config.latent_channels, 1),
        )

    def forward(self, groups: Float[Tensor, "b t g h w"]) -> Float[Tensor, "b t _ y x"]:
        made = self.layers(
            rearrange(groups, "b t g h w -> (b t) g h w").contiguous(memory_format=torch.channels_last)
        )
        return rearrange(made, "(b t) z y x -> b t z y x", b=len(groups))


class Decoder(nn.Module):
    """Most of the work is done at 1/8 of the size, before a latent splits into its four frames."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        eighth, quarter, half = config.decoder_channels
        self.enter = CausalConv(config.latent_channels, eighth)
        self.trunk = nn.Sequential(*[ResidualBlock(eighth) for _ in range(config.trunk_blocks - 1)])
        self.blend = CausalConv(eighth, eighth)
        self.after = ResidualBlock(eighth)
        self.split = nn.Conv2d(eighth, FRAMES_PER_LATENT * 4 * quarter, 1)
        unfold = nn.PixelShuffle(2)
        self.paint = nn.Sequential(
            unfold,
            ResidualBlock(quarter),
            nn.Conv2d(quarter, 4 * half, 1),
            unfold,
            ResidualBlock(half),
            nn.SiLU(),
            nn.Conv2d(half, 4 * 3, 3, padding=1),
            unfold,
        )

    def forward(self, z: Latents, tails: Tails | None) -> tuple[Video, Tails]:
        batch = len(z)
        first, second = (None, None) if tails is None else tails
        x, enter_tail = self.enter(z, first)
        x = rearrange(self.trunk(_flat(x)), "(b t) c h w -> b t c h w", b=batch)
        blended, blend_tail = self.blend(nn.functional.silu(x), second)
        frames = self.split(self.after(_flat(x + blended)))
        frames = rearrange(frames, "n (f c) h w -> (n f) c h w", f=FRAMES_PER_LATENT)
        video = self.paint(frames.contiguous(memory_format=torch.channels_last))
        return rearrange(video, "(b f) c h w -> b f c h w", b=batch), [enter_tail, blend_tail]


def _flat(x: Float[Tensor, "b t c y x"]) -> Float[Tensor, "n c y x"]:
    return rearrange(x, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
