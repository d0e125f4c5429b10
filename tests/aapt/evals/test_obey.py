"""The measure of obedience itself: it sees a picture move, and keys that are read."""

import torch

from aapt.checkpoint import untrained
from aapt.evals.obey import game_turns, measure_obedience, mirrored, sideways_px
from aapt.presets import DEBUG
from aapt.worlds.latents import Batch


def test_sideways_sees_a_picture_that_moves() -> None:
    texture = torch.rand(3, 40, 200)
    frames = torch.stack([texture[..., 40 - 2 * i : 140 - 2 * i] for i in range(4)])
    right = sideways_px(frames[None])
    assert right.tolist() == [[8.0]]  # two pixels a frame, four frames a latent
    assert sideways_px(frames[None].flip(1)).tolist() == [[-8.0]]


def test_mirrored_exchanges_left_and_right_only() -> None:
    controls = torch.zeros(1, 1, 4, 4)
    controls[..., DEBUG.keys.index("left")] = 1
    controls[..., DEBUG.keys.index("up")] = 0.5
    seen = mirrored(untrained(DEBUG, seed=0), controls)
    assert seen[0, 0, 0].tolist() == [0, 1, 0.5, 0]


def test_a_network_that_has_learnt_nothing_reads_no_keys() -> None:
    model = untrained(DEBUG, seed=0)
    latents = torch.randn(2, 15, 4, 4, 4)
    batch = Batch(
        first=latents[:, 0],
        latents=latents[:, 1:],
        controls=torch.ones(2, 14, 4, 4),
        text=torch.randn(2, 4, 8),
        previous=latents[:, :-1],
        index=torch.arange(1, 15).repeat(2, 1),
    )
    numbers = measure_obedience(model, batch)
    assert numbers["error_true"] == numbers["error_mirrored"] == numbers["error_without"]
    assert numbers["turn_left_px"] == numbers["turn_right_px"]


def test_the_game_turns_as_its_keys_say() -> None:
    turns = game_turns()
    assert turns["game_turn_left_px"] > 4
    assert turns["game_turn_right_px"] < -4
