"""Named sizes: what a world looks like, how it is steered, and how large its networks are."""

from dataclasses import dataclass, replace

from aapt.dit.model import DiTConfig
from aapt.shapes import SPATIAL_REDUCTION
from aapt.vae.model import VAEConfig


@dataclass(frozen=True)
class Preset:
    """One kind of model, trained or not. Two checkpoints of the same preset are interchangeable."""

    name: str
    width_px: int
    height_px: int
    frames_per_second: float
    keys: tuple[
        str, ...
    ]  # in the order of the control channels; empty where the world is not steered by keys
    tracks: tuple[str, ...]  # control tracks that the world obeys, by their names in the protocol
    prompt: str  # what is said where a player says nothing
    vae: VAEConfig
    dit: DiTConfig

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent."""
        height, width = self.height_px // SPATIAL_REDUCTION, self.width_px // SPATIAL_REDUCTION
        return self.vae.latent_channels, height, width


ROAD = Preset(
    name="road",
    width_px=128,
    height_px=80,
    frames_per_second=24.0,
    keys=("left", "right", "up", "down"),
    tracks=("keys", "prompt"),
    prompt="a red car on a grey road",
    vae=VAEConfig(latent_channels=12),
    dit=DiTConfig(
        latent_channels=12,
        dim=192,
        heads=3,
        layers=6,
        window=6,
        ffn_dim=768,
        text_dim=64,
        text_tokens=12,
        keys=4,
    ),
)

MAZE = Preset(
    name="maze",
    width_px=160,
    height_px=96,
    frames_per_second=24.0,
    keys=("left", "right", "up", "down", "strafe_left", "strafe_right"),
    tracks=("keys", "prompt"),
    prompt="a maze of small bright rooms",
    vae=VAEConfig(latent_channels=16, decoder_channels=(192, 48, 24)),
    dit=DiTConfig(
        latent_channels=16,
        dim=256,
        heads=4,
        layers=8,
        window=10,
        ffn_dim=1024,
        text_dim=64,
        text_tokens=12,
        keys=6,
    ),
)

# Small enough that a test can train it; the shape of everything else is the same.
DEBUG = Preset(
    name="debug",
    width_px=32,
    height_px=32,
    frames_per_second=24.0,
    keys=("left", "right", "up", "down"),
    tracks=("keys", "prompt"),
    prompt="a test",
    vae=VAEConfig(
        latent_channels=4, encoder_channels=(8, 8, 16), decoder_channels=(16, 8, 8), trunk_blocks=1
    ),
    dit=DiTConfig(
        latent_channels=4, dim=32, heads=2, layers=3, window=4, ffn_dim=64, text_dim=8, text_tokens=4, keys=4
    ),
)

PRESETS = {preset.name: preset for preset in (ROAD, MAZE, DEBUG)}

# Widths of the paper's light decoder (appendix C) where ours works at the same size. Ours has no full-size
# layers and splits a latent into frames late: it multiplies a twelfth of what the paper's does.
_WIDE_VAE = VAEConfig(
    latent_channels=16, encoder_channels=(128, 256, 512), decoder_channels=(512, 256, 128), trunk_blocks=2
)

WAN_1_3B = Preset(
    name="wan-1.3b",
    width_px=832,
    height_px=480,
    frames_per_second=24.0,
    keys=("left", "right", "up", "down"),
    tracks=("keys", "prompt"),
    prompt="a road through open country",
    vae=_WIDE_VAE,
    dit=DiTConfig(
        latent_channels=16,
        dim=1536,
        heads=12,
        layers=30,
        window=15,
        ffn_dim=8960,
        text_dim=4096,
        text_tokens=512,
        keys=4,
        predicts_clean=False,
    ),
)

# The paper's MMDiT multiplies 12·dim² for a visual token in a layer: attention 4, MLP 8. Wan's block spends 2
# on attention to text, so an MLP three times as wide as the network keeps the sum.
AAPT_8B = Preset(
    name="aapt-8b",
    width_px=736,
    height_px=416,
    frames_per_second=24.0,
    keys=(),
    tracks=("camera", "prompt"),
    prompt="a walk through open country",
    vae=_WIDE_VAE,
    dit=DiTConfig(
        latent_channels=16,
        dim=3072,
        heads=24,
        layers=36,
        window=30,
        ffn_dim=9216,
        text_dim=4096,
        text_tokens=512,
        camera_metres_per_unit=1.0,
        predicts_clean=False,
    ),
)

AAPT_8B_720P = replace(
    AAPT_8B, name="aapt-8b-720p", width_px=1280, height_px=720, dit=replace(AAPT_8B.dit, window=15)
)

# For the cost model: nobody builds these on a CPU, so no command that trains or plays offers them.
LARGE_PRESETS = {preset.name: preset for preset in (WAN_1_3B, AAPT_8B, AAPT_8B_720P)}
