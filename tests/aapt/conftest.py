"""What stage 3's tests play with: a network that moves, and clips of noise."""

import pytest

from aapt.checkpoint import Model
from aapt.worlds.latents import Clips
from tests.aapt.players import noise_clips, restless


@pytest.fixture
def model() -> Model:
    return restless()


@pytest.fixture
def clips(model: Model) -> Clips:
    return noise_clips(model)
