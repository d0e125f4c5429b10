"""What a session's controls become for the network."""

import math

import pytest
import torch

from aapt.dit.model import DiT
from aapt.presets import AAPT_8B, DEBUG, Preset
from livevideo.v1.control_pb2 import CameraPose
from services.engine.mailbox import Turn
from services.engine.steering import CameraSteering, steering_by, values_per_frame

STRAIGHT = (0.0, 0.0, 0.0, 1.0)


def turn(position: tuple[float, ...], rotation: tuple[float, ...] = STRAIGHT, fov_rad: float = 0.0) -> Turn:
    camera = CameraPose(position_m=position, rotation=rotation, fov_rad=fov_rad)
    return Turn(keys=(), control_seq=1, camera=camera)


def test_a_key_counts_for_all_four_frames() -> None:
    rows = steering_by(("left", "up"), ("keys", "camera")).rows(Turn(keys=(0.0, 1.0), control_seq=1))
    assert rows.tolist() == [[0.0, 1.0]] * 4
    assert values_per_frame(("left", "up"), ("keys", "camera")) == 2


def test_a_camera_stands_still_until_its_second_pose_and_then_moves_evenly() -> None:
    steering = CameraSteering()
    still = [0.0] * 3 + [*STRAIGHT]
    assert steering.rows(Turn(keys=(), control_seq=0))[:, :7].tolist() == [still] * 4
    assert steering.rows(turn((5.0, 0.0, 2.0)))[:, :7].tolist() == [still] * 4
    moved = steering.rows(turn((6.0, 0.0, 2.0)))
    assert moved[:, :3].tolist() == [[0.25, 0.0, 0.0]] * 4
    assert steering.rows(turn((6.0, 0.0, 2.0)))[:, :7].tolist() == [still] * 4


def test_a_camera_turns_the_shorter_way_and_moves_as_it_looks() -> None:
    half = math.pi / 8
    steering = CameraSteering()
    steering.rows(turn((0.0, 0.0, 0.0)))
    rows = steering.rows(turn((0.0, 0.0, 0.0), (0.0, -math.sin(half), 0.0, -math.cos(half))))
    angles = 2 * torch.atan2(rows[:, 4], rows[:, 6])
    assert float(angles.sum()) == pytest.approx(2 * half, abs=1e-4)
    assert angles.max() < 1.2 * angles.min()
    # It looks along -x now; a step that way is a step ahead.
    ahead = steering.rows(turn((-1.0, 0.0, -1.0), (0.0, math.sin(half), 0.0, math.cos(half))))
    torch.testing.assert_close(ahead[:, :3].sum(0), torch.tensor([0.0, 0.0, -math.sqrt(2)]))


def test_a_field_of_view_stays_until_another_is_told() -> None:
    steering = CameraSteering()
    assert steering.rows(turn((0.0,) * 3, fov_rad=0.7))[0, 7] == pytest.approx(0.7)
    assert steering.rows(turn((0.0,) * 3))[0, 7] == pytest.approx(0.7)


@pytest.mark.parametrize("preset", [DEBUG, AAPT_8B], ids=lambda preset: preset.name)
def test_rows_are_as_wide_as_the_network_takes_them(preset: Preset) -> None:
    with torch.device("meta"):
        values = DiT(preset.dit).controls.values_per_frame
    assert values_per_frame(preset.keys, preset.tracks) == values
    still = Turn(keys=(0.0,) * len(preset.keys), control_seq=0)
    assert steering_by(preset.keys, preset.tracks).rows(still).shape == (4, values)
