"""The recipe runs, learns, stops and goes on; small enough for seconds."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from aapt.checkpoint import Model, untrained
from aapt.evals.curves import plot_curves
from aapt.presets import DEBUG
from aapt.shapes import to_video
from aapt.train.adapt import Adapt, AdaptConfig, recycled
from aapt.train.codec import Codec, normalise
from aapt.train.distill import Distill, DistillConfig
from aapt.train.loop import LoopConfig, train
from aapt.train.pretrain import Pretrain, PretrainConfig
from aapt.worlds.clips import Episode
from aapt.worlds.latents import LATEST_INDEX, Clips, encode
from tests.aapt.recordings import record_squares


@pytest.fixture
def episodes(tmp_path: Path) -> list[Path]:
    return record_squares(tmp_path, 2)


@pytest.fixture
def model() -> Model:
    return untrained(DEBUG)


def clips(model: Model, paths: list[Path], folder: Path) -> Clips:
    return Clips(encode(model.vae, paths, folder / "latents.pt"), model.text)


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_codec_learns_and_normalises_what_it_makes(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    frames = [torch.from_numpy(Episode.load(path).frames) for path in episodes]
    stage = Codec(model.vae, frames, frames, crop_px=32)
    train(
        stage, LoopConfig(steps=60, learning_rate=3e-3, warmup_steps=5, evaluate_every=60), tmp_path / "run"
    )
    assert losses(tmp_path / "run")[-1] < 0.7 * losses(tmp_path / "run")[0]
    normalise(model.vae, frames)
    latents = model.vae.encode(to_video(frames[0])[None])
    assert 0.7 < float(latents.std()) < 1.4
    assert list((tmp_path / "run").glob("sheet-*.png"))
    film = film_of(tmp_path / "run" / "clip-000060.mp4")
    # Two recordings side by side, above what the codec made of them.
    assert len(film) == 41
    assert film[0].shape == (64, 64, 3)


def film_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as film:
        assert film.streams.video[0].average_rate == 24
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]


def adapt(model: Model, held: Clips) -> Adapt:
    return Adapt(model, held, held, AdaptConfig(clips=2, length=5, history_noise=0.3, own_history=0.5))


def test_adaptation_learns_and_leaves_numbers_pictures_and_films(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    train(adapt(model, held), LoopConfig(steps=60, learning_rate=3e-3, warmup_steps=5), tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < 0.9 * losses(tmp_path / "run")[0]
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"error_1", "sharpness_60", "psnr_first_second_to_codec_db"} <= last["held_out"].keys()
    assert list((tmp_path / "run").glob("sheet-*.png"))
    pictures = film_of(tmp_path / "run" / "clip-000060.mp4")
    # Two clips of 60 latents side by side, the truth above the dream.
    assert len(pictures) == 1 + 4 * 60
    assert pictures[0].shape == (64, 64, 3)
    assert abs(int(pictures[0][:32].mean()) - int(pictures[0][32:].mean())) < 10  # the same first picture


def test_now_and_then_a_run_looks_inside_its_networks(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    config = LoopConfig(steps=101, learning_rate=1e-3, evaluate_every=200, is_compiled=True)
    train(adapt(model, held), config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    looks = {line["step"]: line["observed"]["network"] for line in lines if "observed" in line}
    assert looks.keys() == {1, 101}
    for look in looks.values():
        assert look["activation_rms"].keys() == {"blocks.0", "blocks.1", "blocks.2"}
        assert look["gradient_norm"].keys() == {*look["activation_rms"], "beside the blocks"}
        assert all(value > 0 for value in look["activation_rms"].values())
    whole = next(line for line in lines if line["step"] == 20)["gradient_norm"]
    parts = sum(value**2 for value in looks[1]["gradient_norm"].values()) ** 0.5
    assert 0.1 * whole < parts < 10 * whole


def test_pretraining_sees_the_whole_clip_and_stage_1_begins_with_its_weights(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    stage = Pretrain(model, held, held, PretrainConfig(clips=2, length=5))
    config = LoopConfig(steps=60, learning_rate=3e-3, warmup_steps=5, evaluate_every=30)
    train(stage, config, tmp_path / "run")
    assert losses(tmp_path / "run")[-1] < 0.9 * losses(tmp_path / "run")[0]
    assert len(film_of(tmp_path / "run" / "clip-000060.mp4")) == 1 + 4 * 5
    assert len(list((tmp_path / "run").glob("sheet-*.png"))) == 2
    batch = held.batch(torch.Generator().manual_seed(0), 1, 5)

    def sees_the_last(is_causal: bool) -> bool:
        noisy = batch.latents.clone().requires_grad_()
        t = torch.full((1,), 0.5)
        given = (batch.previous, t, batch.text, batch.controls, batch.index)
        model.dit(noisy, *given, is_causal=is_causal)[:, 0].sum().backward()
        assert noisy.grad is not None
        return bool(noisy.grad[:, -1].any())

    assert sees_the_last(is_causal=False)
    assert not sees_the_last(is_causal=True)
    begun = untrained(DEBUG)
    begun.dit.load_state_dict(torch.load(tmp_path / "run" / "weights.pt", weights_only=True))
    train(adapt(begun, held), LoopConfig(steps=2, learning_rate=1e-4), tmp_path / "adapt")


def test_a_run_that_was_stopped_takes_the_steps_of_one_that_was_not(
    episodes: list[Path], tmp_path: Path
) -> None:
    def weights(run: str, *stops: int) -> dict[str, torch.Tensor]:
        for steps in stops:
            model = untrained(DEBUG)
            config = LoopConfig(
                steps=steps, learning_rate=1e-3, warmup_steps=100, evaluate_every=99, optimizer="muon"
            )
            train(adapt(model, clips(model, episodes, tmp_path)), config, tmp_path / run)
        state: dict[str, torch.Tensor] = torch.load(tmp_path / run / "weights.pt", weights_only=True)
        return state

    whole, resumed = weights("whole", 6), weights("resumed", 3, 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_distillation_pulls_the_one_step_sample_to_where_the_teacher_goes(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    train(adapt(model, held), LoopConfig(steps=40, learning_rate=3e-3, warmup_steps=5), tmp_path / "adapt")
    stage = Distill(model, held, held, DistillConfig(clips=2, length=5, grid_steps=4))
    teacher = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    train(stage, LoopConfig(steps=40, learning_rate=1e-3, warmup_steps=5), tmp_path / "distill")
    assert losses(tmp_path / "distill")[-1] < losses(tmp_path / "distill")[0]
    assert all(torch.equal(value, teacher[name]) for name, value in stage.teacher.state_dict().items())


def test_clips_line_up_pictures_latents_and_keys(model: Model, episodes: list[Path], tmp_path: Path) -> None:
    batch = clips(model, episodes, tmp_path).pick([(1, 3)], 5)
    recorded = Episode.load(episodes[1])
    with torch.inference_mode():
        expected = model.vae.encode(to_video(torch.from_numpy(recorded.frames[48:69]))[None])
    torch.testing.assert_close(batch.first, expected[:, 0], atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(batch.latents, expected[:, 1:], atol=2e-3, rtol=1e-2)
    assert torch.equal(batch.controls[0].flatten(0, 1), torch.from_numpy(recorded.controls[49:69]).float())


def test_a_late_clip_is_a_first_latent_and_a_later_time_under_a_later_index(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    batch = held.batch(torch.Generator().manual_seed(3), 16, 5, late=0.5)
    gaps = batch.index.diff(dim=1)
    assert (gaps[:, 1:] == 1).all()
    assert (gaps[:8, 0] >= 5).all()
    assert (gaps[8:, 0] == 1).all()
    assert int(batch.index.max()) <= LATEST_INDEX + 5
    # What is recycled is the latent before, in the recording if not in the clip.
    torch.testing.assert_close(batch.previous[:, 2:], batch.latents[:, 1:-1])
    recorded = torch.cat([episode.latents for episode in held.episodes]).float()
    for row in range(8):
        places = (recorded == batch.latents[row, 1]).flatten(1).all(1).nonzero()[:, 0]
        assert any(torch.equal(recorded[place - 1], batch.previous[row, 1]) for place in places)


def test_own_history_is_what_the_network_makes_and_spares_the_first_picture(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    batch = clips(model, episodes, tmp_path).batch(torch.Generator().manual_seed(1), 4, 6, late=0.5)
    config = AdaptConfig(own_history=1.0, own_steps=5)
    # A network that names the same clean latent whatever it sees.
    torch.nn.init.constant_(model.dit.head.bias, 7.0)
    previous = recycled(model.dit, batch, torch.Generator().manual_seed(2), config)
    follows = torch.cat([torch.zeros(4, 1), batch.index.diff(dim=1) == 1], 1).bool()
    torch.testing.assert_close(previous[follows], torch.full_like(previous[follows], 7.0))
    assert torch.equal(previous[~follows], batch.previous[~follows])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bfloat16_changes_how_it_multiplies_and_not_what_it_learns(
    episodes: list[Path], tmp_path: Path, optimizer: str
) -> None:
    learnt = {}
    for bfloat16 in (False, True):
        model = untrained(DEBUG)
        run = tmp_path / f"run-{bfloat16}"
        config = LoopConfig(
            steps=40, learning_rate=3e-3, warmup_steps=5, bfloat16=bfloat16, optimizer=optimizer
        )
        train(adapt(model, clips(model, episodes, tmp_path)), config, run)
        learnt[bfloat16] = losses(run)
        assert all(p.dtype == torch.float32 for p in model.dit.parameters())
    assert learnt[True] == pytest.approx(learnt[False], rel=0.05)


def test_a_diverging_run_stops_with_the_step_and_the_terms(
    model: Model, episodes: list[Path], tmp_path: Path
) -> None:
    held = clips(model, episodes, tmp_path)
    with torch.no_grad():
        model.dit.head.weight.fill_(float("nan"))
    said = (
        "step 0: network clean_error is nan, loss is nan.*and nothing is saved yet: begin again with a lower"
    )
    with pytest.raises(FloatingPointError, match=said):
        train(adapt(model, held), LoopConfig(steps=2, learning_rate=1e-3), tmp_path / "run")


def test_curves_of_stages_with_one_loss_and_with_two_are_drawn(tmp_path: Path) -> None:
    for run, losses_of in (("adapt", ("loss",)), ("adversarial", ("generator_loss", "discriminator_loss"))):
        (tmp_path / run).mkdir()
        lines: list[dict[str, object]] = [
            {"step": step, **dict.fromkeys(losses_of, 1.0 / step)} for step in (20, 40)
        ]
        lines.append({"step": 40, "held_out": {"error_15": 0.5}})
        (tmp_path / run / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    plot_curves([tmp_path / "adapt", tmp_path / "adversarial"], tmp_path / "out" / "curves.png")
    with Image.open(tmp_path / "out" / "curves.png") as drawn:
        assert drawn.width > drawn.height > 100
