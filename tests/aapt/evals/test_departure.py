"""A dream held against the game: a perfect one, a frozen one, and what is written of it."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aapt.checkpoint import Model, untrained
from aapt.evals import drives
from aapt.evals.backbones import MissingFile
from aapt.evals.curves import plot_departure
from aapt.evals.departure import Departure, Dream, Judgement, judge, summary
from aapt.evals.diffusion import play_diffusion
from aapt.evals.drift import play
from aapt.evals.drives import SKIPPED_FRAMES, encode_drives, find_drives, read_drive
from aapt.evals.motion import MotionError, MotionRegressor
from aapt.evals.report import draw_sheet, sentence, table
from aapt.presets import DEBUG, ROAD
from aapt.shapes import Controls, Latents, Text
from aapt.worlds.clips import Episode

SECONDS = 6.0


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two recordings of noise that slides sideways, long enough for six judged seconds."""
    made = []
    for number in range(2):
        random = np.random.default_rng(number)
        frames = SKIPPED_FRAMES + 24 * round(SECONDS) + 1
        texture = random.integers(0, 255, (32, 32 + frames, 3)).astype(np.uint8)
        pictures = np.stack([texture[:, i : i + 32] for i in range(frames)])
        held = (random.random((frames, 4)) < 0.5).astype(np.uint8)
        path = tmp_path / f"episode-{number:05d}.npz"
        Episode(pictures, held, np.zeros((frames, 4), np.float32), "noise").save(path)
        made.append(path)
    return made


@pytest.fixture
def model() -> Model:
    return untrained(DEBUG)


def measured(model: Model, paths: list[Path], dream: Dream) -> Judgement:
    torch.manual_seed(0)
    return judge(model, MotionRegressor(32, 32), paths, SECONDS, dream)


def test_a_recording_is_judged_from_its_third_second_on(paths: list[Path]) -> None:
    drive = read_drive(paths[1], 5)
    recorded = Episode.load(paths[1])
    assert torch.equal(drive.frames, torch.from_numpy(recorded.frames[48:69]))
    assert torch.equal(drive.controls.flatten(0, 1), torch.from_numpy(recorded.controls[49:69]).float())
    assert len(drive.poses) == 21


def test_a_dream_that_is_the_truth_through_the_codec_has_no_errors_but_the_codecs(
    model: Model, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A codec that carries everything: what it decodes is what was recorded.
    true = torch.stack([read_drive(path, 36).frames for path in paths])
    video = true.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    streams = iter(
        video[i : i + 1, (0 if at == 0 else 4 * at + 1) : 4 * min(at + 16, 36) + 1]
        for i in range(2)
        for at in (0, 16, 32)
    )
    monkeypatch.setattr(model.vae, "decode_after", lambda latents, tails: (next(streams), [latents]))
    wholes = iter(video[:, None])
    monkeypatch.setattr(model.vae, "decode", lambda latents: next(wholes))
    judgement = measured(model, paths, lambda first, text, controls: torch.zeros(2, 36, *first.shape[1:]))
    scores = judgement.departure.over(slice(36))
    assert scores["psnr_db"] > 60
    assert scores["ssim"] == pytest.approx(1, abs=1e-5)
    assert scores["sharpness_ratio"] == pytest.approx(1)
    assert scores["static_ratio"] == 0
    assert judgement.codec.over(slice(36)) == pytest.approx(scores)
    assert judgement.departure.frechet() == pytest.approx(0, abs=1e-4)
    assert next(streams, None) is None


def frozen(first: torch.Tensor, text: Text, controls: Controls) -> Latents:
    return first[:, None].repeat(1, controls.shape[1], 1, 1, 1)


def test_a_dream_that_stands_still_is_static_where_the_truth_moves(
    model: Model, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def blank(latents: torch.Tensor, tails: object) -> tuple[torch.Tensor, object]:
        frames = 4 * latents.shape[1] - (3 if tails is None else 0)
        return torch.zeros(1, frames, 3, 32, 32), latents

    monkeypatch.setattr(model.vae, "decode_after", blank)
    departure = measured(model, paths, frozen).departure
    assert departure.over(slice(36))["static_ratio"] == 1
    assert departure.over(slice(36))["sharpness_ratio"] == 0
    resting = replace(departure, is_moving=torch.zeros(2, 36, dtype=torch.bool))
    assert resting.over(slice(36))["static_ratio"] == 0


def test_seconds_add_up_and_the_frechet_distance_waits_for_five_of_them(
    model: Model, paths: list[Path]
) -> None:
    departure = measured(model, paths, frozen).departure
    rows = departure.rows()
    mean = sum(row["ssim"] or 0 for row in rows) / len(rows)
    assert departure.over(slice(36))["ssim"] == pytest.approx(mean, abs=1e-5)
    assert [row["frechet"] is None for row in rows] == [True] * 4 + [False] * 2
    assert [row["second"] for row in departure.rows(3)] == [3, 6]


def test_the_summary_names_what_was_asked_and_is_json(model: Model, paths: list[Path]) -> None:
    judgement = measured(model, paths, frozen)
    numbers = json.loads(json.dumps(summary(judgement, MotionError(0.5, 0.25)), allow_nan=False))
    asked = {"psnr_first_second_db", "rotation_error_deg", "translation_error", "frechet", "sharpness_ratio"}
    assert asked | {"static_ratio", "frechet_floor", "error_1", "sharpness_30"} <= numbers.keys()
    assert numbers["regressor_rotation_error_deg"] == 0.5
    assert numbers["seconds"] == SECONDS
    assert "6 s of 2 drives" in sentence(numbers)


def test_the_table_has_a_row_for_every_second(model: Model, paths: list[Path]) -> None:
    lines = table(measured(model, paths, frozen).departure).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [str(i) for i in range(1, round(SECONDS) + 1)]
    assert len({len(line) for line in lines}) == 1


def test_long_departures_are_told_in_longer_rows() -> None:
    many = torch.rand(1, 6 * 150, generator=torch.Generator().manual_seed(0))
    features = torch.randn(1, 6 * 150, 4, generator=torch.Generator().manual_seed(1))
    departure = Departure(6.0, *(many,) * 6, many > 0.2, many > 0.9, features, features)
    lines = table(departure).splitlines()
    assert [re.split(r"\s+", line.strip())[0] for line in lines[1:3]] == ["3", "6"]
    assert len(lines) == 51


def test_sheet_and_plot_show_the_whole_length(model: Model, paths: list[Path], tmp_path: Path) -> None:
    judgement = measured(model, paths, frozen)
    assert judgement.columns[0] == 1
    assert judgement.columns[-1] == 36
    draw_sheet(judgement, tmp_path / "out" / "sheet.png")
    plot_departure(
        judgement.departure, summary(judgement, MotionError(0.5, 0.2)), tmp_path / "out" / "plot.png"
    )
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size == (32 * len(judgement.columns), 2 * 2 * 32 + 12)
        # What happened is shown as it was recorded.
        last = np.array(sheet)[12:44, -32:]
    np.testing.assert_array_equal(last, read_drive(paths[0], 36).frames[-1].numpy())
    with Image.open(tmp_path / "out" / "plot.png") as plot:
        assert plot.width > plot.height > 300


def test_one_step_of_diffusion_is_the_rollout(model: Model, paths: list[Path]) -> None:
    torch.nn.init.normal_(model.dit.head.weight, std=0.1)
    batch = encode_drives(model, paths, 12)  # beyond the window
    given = (model, batch.first, batch.text, batch.controls)
    expected = play(*given, seed=3)
    torch.testing.assert_close(play_diffusion(*given, seed=3, steps=1, shift=3.0), expected)
    assert not torch.allclose(play_diffusion(*given, seed=3, steps=2, shift=3.0), expected, atol=1e-3)


def test_diffusion_sees_what_one_pass_over_the_clip_sees_at_each_time(
    model: Model, paths: list[Path]
) -> None:
    torch.nn.init.normal_(model.dit.head.weight, std=0.1)
    batch = encode_drives(model, paths[:1], 8)
    evaluated: list[tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    forward = model.dit.forward

    def spy(
        noisy: torch.Tensor, previous: torch.Tensor, t: torch.Tensor, *rest: object, **kw: object
    ) -> object:
        velocity = forward(noisy, previous, t, *rest, **kw)  # type: ignore[arg-type]
        evaluated.append((float(t), noisy, previous, velocity))
        return velocity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.dit, "forward", spy)
        play_diffusion(model, batch.first, batch.text, batch.controls, steps=3, shift=3.0)
    for step in range(3):
        t, noisy, previous, velocity = zip(*evaluated[step::3], strict=True)
        assert len(set(t)) == 1
        given = (torch.cat(noisy, 1), torch.cat(previous, 1), torch.tensor(t[:1]), batch.text, batch.controls)
        with torch.inference_mode():
            whole = model.dit(*given)
        torch.testing.assert_close(torch.cat(velocity, 1), whole, atol=1e-4, rtol=1e-4)


def test_recordings_that_are_too_short_are_refused_with_what_to_do(paths: list[Path]) -> None:
    with pytest.raises(MissingFile, match=r"193 frames; 60 s need 1489: .*--data"):
        find_drives(DEBUG, paths[0].parent, 60.0)
    assert find_drives(DEBUG, paths[0].parent, SECONDS, 1) == paths[1:]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A game that writes empty recordings, and remembers which."""
    recorded: list[int] = []

    def record(world: str, out: Path, episodes: int, seconds: float, workers: int, first: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        for index in range(first, first + episodes):
            path = out / f"episode-{index:05d}.npz"
            if not path.exists():
                recorded.append(index)
                frames = int(seconds * 24) + 1
                blank = np.zeros((frames, 1, 1, 3), np.uint8), np.zeros((frames, 4), np.uint8)
                Episode(*blank, np.zeros((frames, 4), np.float32), world).save(path)

    monkeypatch.setattr(drives, "record", record)
    monkeypatch.setattr(drives, "FOLDER", tmp_path / "judge")
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    return recorded


def test_drives_are_recorded_once_and_again_only_where_longer_ones_are_asked_for(
    recorder: list[int],
) -> None:
    assert len(find_drives(ROAD, None, 2.0, 2)) == 2
    assert recorder == [10_000, 10_001]
    find_drives(ROAD, None, 1.0, 2)
    assert recorder == [10_000, 10_001]
    find_drives(ROAD, None, 5.0, 1)
    assert recorder == [10_000, 10_001, 10_000]


def test_without_the_game_the_error_says_how_to_install_it(
    recorder: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="gymnasium")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingFile, match=r"'gymnasium'.*make \.venv/developing.*--data"):
        find_drives(ROAD, None, 2.0)
    assert not recorder
