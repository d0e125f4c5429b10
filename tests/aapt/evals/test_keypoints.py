"""AKD with planted keypoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aapt.evals.backbones import MissingFile
from aapt.evals.keypoints import Keypoints, average_distance, measure_keypoints


@pytest.fixture
def true() -> Keypoints:
    """4 frames of 5 keypoints, all of them sure."""
    points = 100 * torch.rand(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[..., 2] = 0.9
    return points


def moved(points: Keypoints, x: float, y: float) -> Keypoints:
    return points + torch.tensor([x, y, 0.0], dtype=torch.float64)


def test_keypoints_moved_by_3_and_4_pixels_are_5_away(true: Keypoints) -> None:
    assert average_distance(moved(true, 3, 4), true) == pytest.approx((5, 1))


def test_keypoints_that_either_is_unsure_of_are_left_out(true: Keypoints) -> None:
    made = moved(true, 6, 8)
    made[:, 0, :2] += 1000
    made[:, 0, 2] = 0.1  # the detector is unsure of what was made: missed
    true[:, 1, 2] = 0.1  # nobody asked for this one
    made[:, 1, :2] += 1000
    assert average_distance(made, true) == pytest.approx((10, 3 / 4))


def test_where_nothing_is_sure_there_is_no_distance(true: Keypoints) -> None:
    assert average_distance(true, true, confidence=0.95) == (None, 0.0)


def test_other_numbers_of_keypoints_are_refused(true: Keypoints) -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) cannot be compared with \(4, 5, 3\)"):
        average_distance(true[:, 1:], true)


def test_videos_count_alike_and_files_have_the_same_names(true: Keypoints, tmp_path: Path) -> None:
    for folder in ("true", "made"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "true" / "a.npz", keypoints=true.numpy())
    np.savez(tmp_path / "made" / "a.npz", keypoints=moved(true, 2, 0).numpy())
    (tmp_path / "true" / "b.json").write_text(json.dumps({"keypoints": true[:1].tolist()}))
    with pytest.raises(MissingFile, match=r"made/b\.json is missing"):
        measure_keypoints(tmp_path / "made", tmp_path / "true")
    (tmp_path / "made" / "b.json").write_text(json.dumps({"keypoints": moved(true[:1], 0, 4).tolist()}))
    scores = measure_keypoints(tmp_path / "made", tmp_path / "true")
    assert scores == {"akd_px": 3.0, "compared_share": 1.0, "videos": 2.0}


@pytest.mark.parametrize("content", ["{", "{}", '{"keypoints": [[1, 2, 3]]}', '{"keypoints": "left hand"}'])
def test_a_file_that_holds_no_keypoints_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(MissingFile, match=r"a\.json holds"):
        measure_keypoints(tmp_path, tmp_path)
