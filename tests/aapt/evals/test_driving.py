"""A driver that looks, in the game and in dreams, and what is measured of it."""

import pytest
import torch

from aapt.checkpoint import untrained
from aapt.evals.driving import Driven, drive_game, game_motion, measure_driving, play_elsewhere
from aapt.evals.motion import MotionRegressor
from aapt.presets import ROAD

pytest.importorskip("Box2D", reason="needs the games: pip install -e 'libs/aapt[worlds]'")
SECONDS = 2.0
LATENTS = 12


@pytest.fixture(scope="module")
def game() -> Driven:
    return drive_game(30_000, SECONDS)


def test_the_game_is_driven_by_sight_and_stays_on_its_road(game: Driven) -> None:
    assert game.frames.shape == (1 + 4 * LATENTS, 80, 128, 3)
    assert game.controls.shape == (LATENTS, 4, 4)
    assert not game.controls[0, :3].any(), "what was seen is answered four frames later"
    assert game.controls[1:, :, 2].float().mean() > 0.5, "it drives on"
    assert game.is_on_road.float().mean() > 0.9


def test_the_same_keys_move_the_car_alike_wherever_it_is() -> None:
    straight = torch.zeros(LATENTS, 4, 4)
    straight[..., 2] = 1
    left = straight.clone()
    left[..., 0] = 1
    ahead, turning = game_motion(straight, 9.0), game_motion(left, 9.0)
    assert ahead[1:, 0].abs().max() < 0.5, "once it has settled on its wheels"
    assert turning[2:, 0].mean() > 2.0, "degrees to the left in a latent"
    assert torch.allclose(ahead[:, 1], torch.full((LATENTS,), 9.0 * 4 / 24), atol=0.3)


def test_a_game_that_is_taken_for_a_dream_scores_as_the_game_itself(game: Driven) -> None:
    torch.manual_seed(0)
    numbers = measure_driving(MotionRegressor(80, 128), [game, game], [9.0, 9.0], [game, game])
    assert numbers["on_road_ratio"] == numbers["game_on_road_ratio"]
    assert numbers["sharpness_ratio"] == pytest.approx(1)
    assert numbers["frechet"] == pytest.approx(0, abs=1e-3)
    assert numbers["seconds"] == SECONDS


def test_keys_that_were_meant_for_another_track_can_be_played_elsewhere() -> None:
    model = untrained(ROAD)
    first, text = torch.zeros(1, *ROAD.latent_shape), model.text.encode("")[None]
    made = play_elsewhere(model, [9.0], first, text, torch.zeros(1, 3, 4, 4))
    assert made.shape == (1, 3, *ROAD.latent_shape)
