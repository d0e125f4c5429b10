"""VBench's dimensions with planted features, flows and interpolations, and the paper's aggregates."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aapt.evals.backbones import MissingFile
from aapt.evals.vbench import (
    BACKGROUND_WEIGHTS,
    DIMENSIONS,
    SUBJECT_WEIGHTS,
    Backbones,
    aesthetic_quality,
    consistency,
    frame_quality,
    imaging_quality,
    is_dynamic,
    likeness,
    measure,
    motion_smoothness,
    temporal_quality,
)
from aapt.evals.videos import Recording

# The formats that people have these networks in are older than what torch would have them use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def directions(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)


def test_temporal_quality_is_the_papers_sum() -> None:
    scores = {"subject_consistency": 90.0, "background_consistency": 94.0, "motion_smoothness": 98.0}
    assert temporal_quality({**scores, "dynamic_degree": 60.0}) == pytest.approx((282 + 30) / 3.5)
    assert temporal_quality({**dict.fromkeys(scores, 100.0), "dynamic_degree": 100.0}) == pytest.approx(100)


def test_frame_quality_is_the_mean_of_its_two() -> None:
    assert frame_quality({"aesthetic_quality": 60.0, "imaging_quality": 64.32}) == pytest.approx(62.16)


def test_a_video_that_does_not_change_is_wholly_consistent() -> None:
    assert consistency(directions(20, 20, 20)).tolist() == pytest.approx([1, 1])


def test_frames_that_alternate_between_two_things_are_half_consistent_where_the_first_returns() -> None:
    # Frame 1 is unlike frame 0 and the first; frame 2 is unlike frame 1 but is the first again.
    assert consistency(directions(0, 90, 0, 90)).tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)


def test_opposite_features_count_as_unlike_and_not_as_less() -> None:
    assert consistency(directions(0, 180)).tolist() == [0]


def test_i2v_scores_weigh_best_match_neighbours_and_worst_neighbours() -> None:
    features = directions(10, 70, 70)
    picture = directions(0)[0]
    best, mean = math.cos(math.radians(10)), (0.5 + 1) / 2
    assert likeness(picture, features, SUBJECT_WEIGHTS) == pytest.approx(0.5 * best + 0.5 * mean)
    expected = 0.4 * best + 0.3 * mean + 0.3 * 0.5
    assert likeness(picture, features, BACKGROUND_WEIGHTS) == pytest.approx(expected)


def ramp(frames: int, per_frame: int) -> Tensor:
    """Flat frames that grow brighter; sides that divide by nothing."""
    values = torch.arange(frames) * per_frame
    return values.byte()[:, None, None, None].expand(frames, 30, 37, 3).contiguous()


def halfway(before: Tensor, after: Tensor) -> Tensor:
    assert before.shape[-2] % 16 == before.shape[-1] % 16 == 0
    return (before + after) / 2


def test_a_steady_change_is_wholly_smooth_and_a_jump_is_not() -> None:
    assert motion_smoothness(ramp(7, 10), halfway) == pytest.approx(1, abs=1e-6)
    jumping = ramp(5, 0)
    jumping[1] = 51  # of two frames that are guessed, one is off by a fifth
    assert motion_smoothness(jumping, halfway) == pytest.approx(1 - 0.2 / 2)


def moving(pixels: float, share: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A flow that moves the left `share` of the picture down by `pixels`, and the rest not at all."""

    def flow(before: Tensor, after: Tensor) -> Tensor:
        assert before.shape[-1] % 8 == 0
        field = torch.zeros(1, 2, *before.shape[-2:])
        field[:, 1, :, : round(share * before.shape[-1])] = pixels
        return field

    return flow


@pytest.mark.parametrize(
    ("pixels", "share", "expected"),
    [(6.1, 1.0, True), (5.9, 1.0, False), (6.1, 0.06, True), (6.1, 0.02, False)],
)
def test_a_video_is_dynamic_where_its_fastest_pixels_move_by_six_in_256(
    pixels: float, share: float, expected: bool
) -> None:
    frames = torch.zeros(16, 256, 400, 3, dtype=torch.uint8)
    assert is_dynamic(Recording(frames, 8.0), moving(pixels, share)) is expected


def test_motion_is_looked_for_at_eight_frames_a_second_in_a_quarter_of_them() -> None:
    seen = []

    def flow(before: Tensor, after: Tensor) -> Tensor:
        seen.append((int(before[0, 0, 0, 0]), int(after[0, 0, 0, 0])))
        return torch.full((1, 2, *before.shape[-2:]), 10.0 if len(seen) > moves_from else 0.0)

    frames = torch.arange(48).byte()[:, None, None, None].expand(48, 32, 32, 3)
    moves_from = 11  # 16 frames are seen: 4 moves are needed, 15 pairs looked at
    assert is_dynamic(Recording(frames, 24.0), flow)
    assert seen[:2] == [(0, 3), (3, 6)]
    seen.clear()
    moves_from = 12
    assert not is_dynamic(Recording(frames, 24.0), flow)


def test_quality_scores_are_means_on_a_scale_of_one() -> None:
    assert aesthetic_quality(directions(0, 90), lambda features: 10 * features[:, :1]) == pytest.approx(0.5)
    frames = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    frames[1] = 255
    assert imaging_quality(frames, lambda picture: 100 * picture.mean()) == pytest.approx(0.5)


def test_musiq_sees_the_longer_side_at_512_at_most() -> None:
    sizes = []

    def musiq(picture: Tensor) -> Tensor:
        sizes.append(tuple(picture.shape[-2:]))
        return torch.zeros(1)

    for height, width in ((256, 1024), (100, 50)):
        imaging_quality(torch.zeros(1, height, width, 3, dtype=torch.uint8), musiq)
    assert sizes == [(128, 512), (100, 50)]


class Colour(nn.Module):
    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.mean((2, 3))


class Score(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True)


class Halfway(nn.Module):
    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return (before + after) / 2


class Flow(nn.Module):
    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return (after - before)[:, :2]


@pytest.fixture
def backbones(tmp_path: Path) -> Backbones:
    folder = tmp_path / "backbones"
    folder.mkdir()
    networks = {"amt": Halfway(), "raft": Flow(), "aesthetic": Score(), "musiq": Score()}
    for name in ("dino", "clip_b32", "clip_l14", "dreamsim"):
        networks[name] = Colour()
    for name, network in networks.items():
        torch.jit.script(network).save(str(folder / f"{name}.pt"))
    return Backbones(folder)


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    """Two folders of pictures that grow brighter."""
    paths = []
    for number in range(2):
        folder = tmp_path / "videos" / f"{number}"
        folder.mkdir(parents=True)
        for i in range(5):
            grey = np.full((32, 48, 3), 40 + 10 * i * number, np.uint8)
            Image.fromarray(grey).save(folder / f"{i:03d}.png")
        paths.append(folder)
    return paths


def test_all_dimensions_are_measured_with_networks_from_files(
    backbones: Backbones, videos: list[Path]
) -> None:
    scores = measure(videos, backbones, DIMENSIONS, None)
    assert scores.keys() == {*DIMENSIONS, "temporal_quality", "frame_quality"}
    assert scores["motion_smoothness"] == pytest.approx(100, abs=1e-3)
    # The first video stands still; in the second every pixel moves by (30, 30), far above 0.75.
    assert scores["dynamic_degree"] == 50
    assert scores["frame_quality"] == pytest.approx(frame_quality(scores), abs=1e-3)


def test_only_what_is_asked_for_is_needed(backbones: Backbones, videos: list[Path], tmp_path: Path) -> None:
    (backbones.folder / "raft.pt").unlink()
    assert measure(videos, backbones, ["subject_consistency"], None).keys() == {"subject_consistency"}
    with pytest.raises(MissingFile, match=r"raft\.pt is missing; it should be RAFT .*princeton-vl/RAFT"):
        measure(videos, backbones, DIMENSIONS, None)


def test_a_file_that_is_no_torchscript_is_named(backbones: Backbones, videos: list[Path]) -> None:
    (backbones.folder / "dino.pt").write_bytes(b"not a network")
    with pytest.raises(MissingFile, match=r"dino\.pt is no TorchScript module"):
        measure(videos, backbones, ["i2v_subject"], None)


def test_the_picture_of_a_video_has_its_name(
    backbones: Backbones, videos: list[Path], tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (48, 32), "white").save(images / "0.png")
    with pytest.raises(MissingFile, match="holds no picture named 1"):
        measure(videos, backbones, ["i2v_background"], images)
    assert measure(videos[:1], backbones, ["i2v_background"], images)["i2v_background"] == pytest.approx(100)
