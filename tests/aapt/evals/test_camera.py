"""Camera errors of synthetic paths, and what is measured of the pictures."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from aapt.evals.backbones import MissingFile
from aapt.evals.camera import (
    Cameras,
    Similarity,
    appearance,
    camera_errors,
    foreground_movement,
    measure_paths,
    read_cameras,
)


def turn(axis: int, degrees: float) -> Tensor:
    a = math.radians(degrees)
    i, j = [k for k in range(3) if k != axis]
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[i, i] = matrix[j, j] = math.cos(a)
    matrix[i, j], matrix[j, i] = -math.sin(a), math.sin(a)
    return matrix


@pytest.fixture
def path() -> Cameras:
    """A helix that looks about."""
    t = torch.linspace(0, 4, 25, dtype=torch.float64)
    positions = torch.stack([t.cos(), t.sin(), 0.3 * t], -1)
    return Cameras(positions, torch.stack([turn(2, 20 * float(x)) @ turn(0, 7 * float(x)) for x in t]))


ELSEWHERE = Similarity(3.5, turn(0, 40) @ turn(1, -75), torch.tensor([5.0, -2.0, 9.0], dtype=torch.float64))


def test_a_path_that_is_scaled_turned_and_moved_as_a_whole_has_no_error(path: Cameras) -> None:
    assert camera_errors(ELSEWHERE(path), path) == pytest.approx((0, 0), abs=1e-9)


@pytest.mark.parametrize("degrees", [0.01, 5.0, 120.0])
def test_cameras_that_look_aside_by_k_degrees_have_a_rotation_error_of_k(
    path: Cameras, degrees: float
) -> None:
    aside = Cameras(path.positions, path.rotations @ turn(1, degrees))
    assert camera_errors(ELSEWHERE(aside), path) == pytest.approx((0, degrees), abs=1e-6)


def test_a_mirrored_path_is_not_laid_over_by_mirroring(path: Cameras) -> None:
    mirrored = Cameras(path.positions * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64), path.rotations)
    assert camera_errors(mirrored, path)[0] > 0.1


def test_distances_are_in_the_true_paths_unit(path: Cameras) -> None:
    shaken = path.positions.clone()
    shaken[::2, 2] += 0.02
    shaken[1::2, 2] -= 0.02
    once = camera_errors(Cameras(shaken, path.rotations), path)[0]
    assert once == pytest.approx(0.02, rel=0.1)
    larger = Cameras(10 * path.positions, path.rotations)
    assert camera_errors(Cameras(shaken, path.rotations), larger)[0] == pytest.approx(10 * once)


def test_a_straight_path_takes_its_turn_from_the_orientations(path: Cameras) -> None:
    line = torch.linspace(0, 1, 25, dtype=torch.float64)[:, None] * torch.tensor([[0.0, 0.0, 2.0]]).double()
    straight = Cameras(line, path.rotations)
    assert camera_errors(ELSEWHERE(straight), straight) == pytest.approx((0, 0), abs=1e-9)


def test_a_camera_that_stands_still_is_compared_by_its_orientations(path: Cameras) -> None:
    standing = Cameras(torch.zeros(25, 3, dtype=torch.float64), path.rotations)
    assert camera_errors(ELSEWHERE(standing), standing) == pytest.approx((0, 0), abs=1e-9)


def test_appearance_is_one_for_one_thing_and_less_for_two() -> None:
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert appearance(same) == pytest.approx(1)
    assert appearance(torch.eye(2)) == pytest.approx(math.sqrt(0.5))


def test_only_the_foreground_counts_as_movement() -> None:
    def flow(before: Tensor, after: Tensor) -> Tensor:
        field = torch.zeros(1, 2, 16, 16)
        field[:, 0, :, 8:], field[:, 1, :, 8:] = 3.0, 4.0
        return field

    masks = torch.zeros(3, 16, 16)
    masks[..., 8:] = 1
    frames = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)
    assert foreground_movement(frames, masks, flow) == pytest.approx(5)
    assert foreground_movement(frames, 1 - masks, flow) == 0
    with pytest.raises(ValueError, match="no pixel"):
        foreground_movement(frames, 0 * masks, flow)


def write(cameras: Cameras, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".npz":
        np.savez(file, positions=cameras.positions.numpy(), rotations=cameras.rotations.numpy())
    else:
        content = {"positions": cameras.positions.tolist(), "rotations": cameras.rotations.tolist()}
        file.write_text(json.dumps(content))


def test_a_video_without_cameras_lowers_the_success_rate_and_nothing_else(
    path: Cameras, tmp_path: Path
) -> None:
    for name in ("a", "b", "c", "d"):
        write(path, tmp_path / "true" / f"{name}.npz")
    write(ELSEWHERE(path), tmp_path / "estimated" / "a.npz")
    write(Cameras(path.positions, path.rotations @ turn(0, 10)), tmp_path / "estimated" / "c.json")
    scores = measure_paths(tmp_path / "estimated", tmp_path / "true")
    assert scores == pytest.approx({"trans": 0, "rot_deg": 5, "geo": 50}, abs=1e-6)


def test_where_no_cameras_are_found_at_all_the_folder_is_named(path: Cameras, tmp_path: Path) -> None:
    write(path, tmp_path / "true" / "a.npz")
    with pytest.raises(MissingFile, match=r"none of the 1 videos"):
        measure_paths(tmp_path / "estimated", tmp_path / "true")


def test_cameras_of_another_shape_or_length_are_refused(path: Cameras, tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", positions=np.zeros((25, 2)), rotations=np.zeros((25, 3, 3)))
    with pytest.raises(MissingFile, match=r"\(25, 2\).* they should be \[f, 3\]"):
        read_cameras(tmp_path / "flat.npz")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(MissingFile, match="holds no cameras"):
        read_cameras(tmp_path / "broken.json")
    write(path, tmp_path / "true" / "a.npz")
    write(Cameras(path.positions[1:], path.rotations[1:]), tmp_path / "estimated" / "a.npz")
    with pytest.raises(MissingFile, match=r"estimated/a\.npz does not belong .*24 cameras"):
        measure_paths(tmp_path / "estimated", tmp_path / "true")
