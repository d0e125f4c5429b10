"""Named sizes: what a world looks like, how it is steered, and how large its networks are."""

from dataclasses import dataclass

from aapt.dit.model import DiTConfig
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
