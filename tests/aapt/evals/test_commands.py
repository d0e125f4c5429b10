"""The commands: FID and FVD on files, one line of JSON, and errors that are sentences."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aapt.checkpoint import save, untrained
from aapt.evals import __main__ as evals
from aapt.evals import drives
from aapt.evals.motion import FILE, MotionError, MotionRegressor, save_regressor
from aapt.presets import DEBUG
from aapt.worlds.clips import Episode

# The formats that people have these networks in are older than what torch would have them use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Colours(nn.Module):
    """Mean colour of a picture or of a clip."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


def backbone(folder: Path) -> Path:
    torch.jit.script(Colours()).save(str(folder / "backbone.pt"))
    return folder / "backbone.pt"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["aapt.evals", *map(str, arguments)])
    evals.main()


def paint(folder: Path, values: list[int], size: int = 20) -> None:
    folder.mkdir(parents=True)
    for i, value in enumerate(values):
        Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(folder / f"{i:03d}.png")


def test_fid_of_pictures_that_are_brighter_is_the_square_of_the_shift(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "true", [0, 51, 102])
    paint(tmp_path / "made", [51, 102, 153])
    folders = ("--made", tmp_path / "made", "--true", tmp_path / "true")
    run(monkeypatch, "fid", *folders, "--backbone", backbone(tmp_path), "--json")
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    # 51 of 255 are 0.4 on the scale from -1 to 1, in three channels.
    assert numbers == {"fid": pytest.approx(3 * 0.4**2, abs=1e-3), "made": 3.0, "true": 3.0}


def test_fvd_cuts_videos_into_clips_of_sixteen_frames(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "true" / "a", [0] * 16 + [100] * 20)
    paint(tmp_path / "made" / "a", [0] * 16 + [100] * 16)
    folders = ("--made", tmp_path / "made", "--true", tmp_path / "true")
    run(monkeypatch, "fvd", *folders, "--backbone", backbone(tmp_path), "--json")
    numbers = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert numbers == {"fvd": pytest.approx(0, abs=1e-4), "made": 2.0, "true": 2.0}


def test_fvd_reads_video_files(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    from aapt.evals.videos import read_video

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video = read_video(tmp_path / "a.mp4")
    assert video.frames_per_second == 12
    assert video.frames.shape == (6, 16, 32, 3)
    assert video.frames.float().mean((1, 2, 3)).tolist() == pytest.approx([0, 40, 80, 120, 160, 200], abs=4)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("fid", r"none\.pt is missing; it should be a TorchScript module .*Inception v3"),
        ("fvd", r"none\.pt is missing; it should be a TorchScript module .*I3D"),
    ],
)
def test_a_missing_backbone_is_a_sentence_that_says_what_it_should_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, missing: str
) -> None:
    with pytest.raises(SystemExit, match=missing):
        run(monkeypatch, command, "--made", tmp_path, "--true", tmp_path, "--backbone", tmp_path / "none.pt")


def test_a_folder_without_videos_and_a_short_video_are_sentences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    network = backbone(tmp_path)
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "short" / "a", [0] * 15)
    for folder, message in (("empty", "holds no videos"), ("short", "has 15 frames; FVD needs 16")):
        path = tmp_path / folder
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, "fvd", "--made", path, "--true", path, "--backbone", network)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save(untrained(DEBUG), tmp_path / "checkpoint", {})
    save_regressor(MotionRegressor(32, 32), MotionError(0.5, 0.25), tmp_path / "checkpoint" / FILE)
    return tmp_path / "checkpoint"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        frames = random.integers(0, 255, (48 + 24 * 2 + 1, 32, 32, 3)).astype(np.uint8)
        held = np.zeros((len(frames), 4), np.uint8)
        episode = Episode(frames, held, np.zeros((len(frames), 4), np.float32), "noise")
        episode.save(folder / f"episode-{number:05d}.npz")
    return folder


def test_drift_ends_with_one_line_of_json_for_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = ("--checkpoint", checkpoint, "--data", data, "--seconds", 2)
    run(monkeypatch, "drift", *chosen, "--json", "--sheet", tmp_path / "sheet.png")
    shipped = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {
        "psnr_first_second_db", "rotation_error_deg", "translation_error", "frechet", "sharpness_ratio",
        "static_ratio",
    } <= shipped.keys()  # fmt: skip
    assert len(shipped["per_second"]["psnr_db"]) == 2
    assert (tmp_path / "sheet.png").exists()

    other = untrained(DEBUG, seed=1).dit
    torch.nn.init.normal_(other.head.weight)
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    for options in (
        ("--weights", tmp_path / "weights.pt"),
        ("--weights", tmp_path / "weights.pt", "--steps", 2),
    ):
        run(monkeypatch, "drift", *chosen, *options, "--json")
        judged = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert judged["error_4"] != shipped["error_4"]


def test_weights_of_another_network_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    torch.save({"head.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    chosen = ("--checkpoint", checkpoint, "--data", data, "--weights", tmp_path / "weights.pt")
    with pytest.raises(SystemExit, match=r"weights\.pt belongs to another model"):
        run(monkeypatch, "drift", *chosen, "--seconds", 2)
    (tmp_path / "weights.pt").unlink()
    with pytest.raises(SystemExit, match=r"weights\.pt is missing"):
        run(monkeypatch, "drift", *chosen, "--seconds", 2)


def test_obey_says_its_numbers_with_and_without_json(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "obey", "--checkpoint", checkpoint, "--data", data, "--seconds", 2, "--json")
    *lines, last = capsys.readouterr().out.splitlines()
    numbers = json.loads(last)
    assert [line.split()[0] for line in lines] == list(numbers)
    assert "error_mirrored" in numbers


def test_a_world_whose_game_is_not_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(drives, "FOLDER", tmp_path / "judge")
    with pytest.raises(SystemExit, match=r"recorded by the game.*--data"):
        run(monkeypatch, "drift", "--checkpoint", checkpoint, "--seconds", 2)


def test_a_package_that_is_not_installed_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "aapt.evals.curves", raising=False)
    with pytest.raises(SystemExit, match=r"needs matplotlib.*aapt\[evals\]"):
        run(monkeypatch, "curves", "--runs", "runs/none")


def test_a_regressor_needs_recordings_to_learn_from_and_to_hold_out(
    monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    with pytest.raises(SystemExit, match="holds 2 recordings, and 8 are held out"):
        run(monkeypatch, "regressor", "--data", data, "--checkpoint", data)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("drift", "--clips", 0), "--clips is 0; choose 1 or more"),
        (("drift", "--steps", -1), "--steps is -1; choose 1 or more"),
        (("drift", "--shift", 0), "--shift is 0.0; choose more than 0"),
        (("obey", "--threads", 0), "--threads is 0; choose 1 or more"),
    ],
)
def test_what_is_out_of_range_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[object, ...], said: str
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert said in capsys.readouterr().err
