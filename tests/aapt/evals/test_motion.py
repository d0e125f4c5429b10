"""The motion regressor: what it is told, that it learns it, and the file that it is kept in."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aapt.evals.backbones import MissingFile
from aapt.evals.motion import (
    FILE,
    MotionError,
    MotionRegressor,
    load_regressor,
    motion_errors,
    save_regressor,
    true_motion,
    windows,
)
from aapt.evals.motion_training import train_regressor
from aapt.worlds.clips import Episode


def test_motion_is_seen_from_the_pose_before() -> None:
    # Heading 0 looks along +y; a quarter turn to the left looks along -x.
    quarter = math.pi / 2
    poses = torch.zeros(9, 4)
    poses[4] = torch.tensor([0.0, 2.0, quarter, 0.0])
    poses[8] = torch.tensor([-3.0, 2.5, quarter, 0.0])
    torch.testing.assert_close(
        true_motion(poses), torch.tensor([[90.0, 2.0, 0.0], [0.0, 3.0, 0.5]]), atol=1e-5, rtol=0
    )


def test_a_turn_past_half_a_circle_is_the_short_way_round() -> None:
    poses = torch.zeros(5, 3)
    poses[0, 2], poses[4, 2] = math.pi - 0.1, -math.pi + 0.1
    assert float(true_motion(poses)[0, 0]) == pytest.approx(math.degrees(0.2), abs=1e-3)


def test_a_mirrored_drive_turns_and_slides_the_other_way() -> None:
    poses = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    mirrored = poses * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    expected = true_motion(poses) * torch.tensor([-1.0, 1.0, -1.0])
    torch.testing.assert_close(true_motion(mirrored), expected, atol=1e-4, rtol=1e-4)


def test_errors_are_degrees_and_metres() -> None:
    rotation, translation = motion_errors(torch.tensor([[1.0, 3.0, 4.0]]), torch.tensor([[-2.0, 0.0, 0.0]]))
    assert (rotation.tolist(), translation.tolist()) == ([3.0], [5.0])


def test_windows_share_the_frame_between_two_latents() -> None:
    video = torch.arange(9.0)[:, None, None, None].expand(9, 3, 4, 4)
    assert windows(video)[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]


@pytest.fixture
def drives(tmp_path: Path) -> list[Path]:
    """A texture that slides down the picture: 10 pixels to the metre, straight on."""
    paths = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        texture = random.integers(0, 255, (400, 32, 3)).astype(np.uint8).repeat(2, 0)
        speeds = random.integers(0, 2, 30).repeat(4)  # pixels a frame
        walked = np.concatenate([[0], speeds.cumsum()])
        frames = np.stack([texture[700 - at : 732 - at] for at in walked])
        poses = np.zeros((121, 4), np.float32)
        poses[:, 1] = walked / 10
        path = tmp_path / f"episode-{seed:05d}.npz"
        Episode(frames, np.zeros((121, 4), np.uint8), poses, "a texture").save(path)
        paths.append(path)
    return paths


def test_the_regressor_learns_a_planted_shift(drives: list[Path]) -> None:
    regressor, error = train_regressor(drives[:3], drives[3:], steps=60)
    # Standing or 0.4 m a latent: who always says the mean is 0.2 m off.
    assert error.translation_m < 0.1
    assert error.rotation_deg < 0.1
    assert regressor.size_px == (32, 32)


def test_a_regressor_is_read_as_it_was_written_with_its_own_error(tmp_path: Path) -> None:
    regressor = MotionRegressor(32, 48)
    regressor.scale.copy_(torch.tensor([2.0, 1.0, 0.5]))
    save_regressor(regressor, MotionError(0.5, 0.25), tmp_path / FILE)
    read, error = load_regressor(tmp_path)
    seen = torch.rand(2, 5, 3, 32, 48)
    assert error == MotionError(0.5, 0.25)
    torch.testing.assert_close(read(seen), regressor(seen), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_a_missing_or_broken_regressor_names_the_command_that_trains_one(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(MissingFile, match=r"motion\.safetensors .*python -m aapt\.evals regressor"):
        load_regressor(tmp_path)
