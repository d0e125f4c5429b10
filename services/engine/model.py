"""The model that an engine serves: read from its checkpoint, and described to those who play it."""

from pathlib import Path

from aapt import checkpoint
from aapt.parallel import ALONE, SequenceParallel
from aapt.presets import Preset
from livevideo.v1.session_pb2 import Model
from services.errors import BadCheckpoint


def load(folder: Path, parallel: SequenceParallel = ALONE) -> checkpoint.Model:
    """Raises BadCheckpoint, the services' own."""
    try:
        return checkpoint.load(folder, parallel)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error


def described(preset: Preset, frames_per_second: float = 0.0) -> Model:
    """As *sessions* and players are told. frames_per_second: 0 is the preset's own."""
    return Model(
        name=preset.name,
        width_px=preset.width_px,
        height_px=preset.height_px,
        frames_per_second=frames_per_second or preset.frames_per_second,
        keys=preset.keys,
        tracks=preset.tracks,
    )
