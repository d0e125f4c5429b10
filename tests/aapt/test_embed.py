"""Positions without end, keys and cameras."""

import math

import torch

from aapt.dit.embed import CameraEncoder, KeyEncoder, relative_poses, rope, rotate


def scores(query_index: int, key_index: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 4, 1, 12, generator=random)
    q = rotate(q, rope(torch.tensor([[query_index]]), 2, 2, 12))
    k = rotate(k, rope(torch.tensor([[key_index]]), 2, 2, 12))
    return torch.einsum("bqae,bkae->bqk", q, k)


def test_attention_depends_on_the_distance_in_time_alone_even_after_a_million_latents() -> None:
    torch.testing.assert_close(scores(7, 3), scores(1_000_004, 1_000_000), atol=1e-4, rtol=0)


def test_rows_columns_and_time_are_told_apart() -> None:
    cos, _ = rope(torch.tensor([[1, 2]]), 2, 3, 12)
    assert len({tuple(token.flatten().tolist()) for token in cos[0]}) == 12


def test_each_frame_of_a_latent_has_keys_of_its_own() -> None:
    torch.manual_seed(0)
    encoder = KeyEncoder(keys=2, channels=3)
    early, late = torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 4, 2)
    early[0, 0, 0, 1] = late[0, 0, 3, 1] = 1
    made = [encoder(x, 2, 2) for x in (early, late)]
    assert made[0].shape == (1, 1, 3, 2, 2)
    assert not torch.allclose(*made)


def test_a_camera_that_stands_still_sends_the_same_rays_every_frame() -> None:
    still = relative_poses(torch.ones(5, 3), torch.tensor([[0.0, 0, 0, 1]]).expand(5, 4), fov_rad=1.0)
    maps = CameraEncoder(metres_per_unit=2.0)(still[1:].view(1, 1, 4, 8), 4, 6).view(4, 6, 4, 6)
    assert torch.allclose(maps[0], maps[3])
    assert maps[:, :3].abs().max() == 0  # origins: it has not moved since the frame before
    torch.testing.assert_close(maps[:, 3:].norm(dim=1), torch.ones(4, 4, 6))


def test_a_camera_is_described_from_the_frame_before_so_values_do_not_grow() -> None:
    angle = 0.5
    turn = torch.tensor([[0.0, math.sin(angle / 2), 0.0, math.cos(angle / 2)]])
    position = torch.tensor([[1000.0, 0, 0], [1000.0, 0, -1.0]])
    relative = relative_poses(position, turn.expand(2, 4), fov_rad=1.0)
    torch.testing.assert_close(relative[1, 3:7], torch.tensor([0.0, 0, 0, 1]))
    # It moved one metre along the world's -z, which it sees turned by its own heading.
    torch.testing.assert_close(relative[1, :3], torch.tensor([math.sin(angle), 0.0, -math.cos(angle)]))


def test_rays_open_with_the_field_of_view() -> None:
    pose = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, math.pi / 2]).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    direction = CameraEncoder(metres_per_unit=1.0)(pose, 200, 200).view(4, 6, 200, 200)[0, 3:]
    corner = direction[:, 0, -1]
    torch.testing.assert_close(corner / -corner[2], torch.tensor([1.0, 1.0, -1.0]), atol=0.01, rtol=0)
