"""Stage 3 on worlds that are driven by one who sees them: who sees what, and which keys are learnt from."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from aapt.checkpoint import Model
from aapt.presets import DEBUG
from aapt.shapes import FRAMES_PER_LATENT
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.vae.streaming import for_serving
from aapt.worlds import eyes, watcher
from aapt.worlds.drivers import SightedDriver
from aapt.worlds.eyes import Glance
from aapt.worlds.latents import Clips
from aapt.worlds.watcher import Watcher
from tests.aapt.players import noise_clips, restless

LENGTH, OVERLAP = 7, 2
CLOSE = 1e-5


@pytest.fixture
def _eyes_for_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is pressed depends on everything that is seen."""

    def look(picture: np.ndarray, number: int) -> Glance:
        held = int(picture.astype(np.int64).sum()) + number
        return Glance(tuple(key for i, key in enumerate(DEBUG.keys) if held >> i & 1), held % 3 > 0)

    monkeypatch.setattr(watcher, "glance", look)


def stage(model: Model, clips: Clips, sighted: Clips | None, **config: object) -> Adversarial:
    usual = {"clips": 2, "length": LENGTH, "extensions": 2, "overlap": OVERLAP, "by_sight": 1.0}
    chosen = AdversarialConfig(**{**usual, **config})  # type: ignore[arg-type]
    return Adversarial(model, model.dit, clips, clips, chosen, sighted=sighted)


def answers(model: Model, before: Sequence[torch.Tensor], latents: torch.Tensor) -> list[torch.Tensor]:
    """What one who saw `before` presses as `latents` come about."""
    looking, pressed = Watcher(for_serving(model.vae), DEBUG.keys, before[0]), []
    for latent in before[1:]:
        looking.see(latent)
    for latent in latents:
        pressed.append(looking.answer()[0])
        looking.see(latent)
    return pressed


@pytest.mark.usefixtures("_eyes_for_noise")
def test_what_is_pressed_answers_what_was_dreamt(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, clips)
    segments = list(adversarial.play(torch.Generator().manual_seed(3), is_sighted=True))
    for row in range(2):
        first = segments[0].fake
        dreamt = [first.latents[row], *(s.fake.latents[row, OVERLAP:] for s in segments[1:])]
        held = [first.controls[row], *(s.fake.controls[row, OVERLAP:] for s in segments[1:])]
        pressed = answers(model, [first.first[row]], torch.cat(dreamt))
        assert torch.equal(torch.stack(pressed)[1:], torch.cat(held)[1:])
        assert torch.equal(first.controls[row, 0], segments[0].real.controls[row, 0])
        assert len({tuple(rows.flatten().tolist()) for rows in pressed}) > 2, "they change"
    for segment in segments:
        made = adversarial.again(segment)
        torch.testing.assert_close(made, segment.fake.latents[:, -made.shape[1] :], atol=CLOSE, rtol=0)


@pytest.mark.usefixtures("_eyes_for_noise")
def test_who_takes_up_a_world_late_has_seen_what_was_there(model: Model, clips: Clips) -> None:
    adversarial = stage(model, clips, clips, extensions=0)
    (segment,) = adversarial.play(torch.Generator().manual_seed(3), is_late=True, is_sighted=True)
    episodes = [episode.latents.float() for episode in clips.episodes]
    for row in range(2):
        newest = segment.fake.previous[row, 0]
        (before,) = (
            latents[at - model.vae.looks_back : at + 1]
            for latents in episodes
            for at in range(model.vae.looks_back, len(latents))
            if torch.equal(latents[at], newest)
        )
        pressed = answers(model, list(before), segment.fake.latents[row])
        assert torch.equal(torch.stack(pressed), segment.fake.controls[row])


@pytest.mark.usefixtures("_eyes_for_noise")
def test_real_clips_beside_them_were_driven_by_sight_and_keep_their_keys(model: Model, clips: Clips) -> None:
    sighted = noise_clips(model, episodes=1)
    sighted.episodes[0].controls.fill_(0.25)
    for segment in stage(model, clips, sighted).play(torch.Generator(), is_sighted=True):
        assert (segment.real.controls == 0.25).all()
        assert not (segment.fake.controls[:, 1:] == 0.25).any()
    for segment in stage(model, clips, sighted).play(torch.Generator()):
        assert not (segment.real.controls == 0.25).any()


@pytest.mark.usefixtures("_eyes_for_noise")
def test_a_share_of_the_steps_is_by_sight(model: Model, clips: Clips) -> None:
    sighted = noise_clips(model, episodes=1)
    sighted.episodes[0].controls.fill_(0.25)
    adversarial = stage(model, clips, sighted, by_sight=0.5, extensions=0)
    drawn = [adversarial.draw(torch.Generator().manual_seed(seed))[0] for seed in range(40)]
    assert 10 < sum(bool((segment.real.controls == 0.25).all()) for segment in drawn) < 30


def test_by_sight_wants_recordings_and_plays(model: Model, clips: Clips) -> None:
    with pytest.raises(ValueError, match="--sighted-data"):
        stage(model, clips, None)
    with pytest.raises(ValueError, match="plays nothing"):
        stage(model, clips, clips, extensions=0, teacher_forced=True)
    with pytest.raises(ValueError, match="by_sight"):
        stage(model, clips, clips, by_sight=1.5)


def test_a_dream_of_what_the_game_showed_is_driven_as_the_game_was(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    shown = np.where(random.random((1 + 40, 80, 128, 1)) < 0.01, 105, (90, 180, 90)).astype(np.uint8)

    class Screen:
        """Decodes latent i to the frames that were recorded."""

        def __init__(self, _: object) -> None: ...

        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            last = FRAMES_PER_LATENT * int(latent.sum())
            return torch.from_numpy(shown[max(0, last - 3) : last + 1])

    monkeypatch.setattr(watcher, "StreamingVAE", Screen)
    driver = SightedDriver(DEBUG.keys)
    held = np.stack([driver.look(picture)[0] for picture in shown[:-1]])
    watching = Watcher(restless().vae, DEBUG.keys, torch.zeros(1, 1, 1))
    pressed = []
    for latent in range(1, 11):
        pressed.append(watching.answer()[0])
        watching.see(torch.full((1, 1, 1), float(latent)))
    assert len(np.unique(held[:, :2], axis=0)) == 3, "left, right and neither"
    # Before there were four frames, the game's driver holds nothing.
    np.testing.assert_array_equal(torch.cat(pressed)[4:, :2], held[4:, :2])


def test_a_sighted_driver_answers_four_frames_later() -> None:
    grass = np.full((80, 128, 3), (90, 180, 90), np.uint8)
    bend = grass.copy()
    bend[:, :30] = 105
    driver = SightedDriver(DEBUG.keys)
    held = [driver.look(picture)[0] for picture in (bend, *[grass] * 7)]
    assert [bool(keys[0]) for keys in held] == [n + 1 == FRAMES_PER_LATENT for n in range(8)]
    assert eyes.glance(bend, 2).keys == ("up", "left")
