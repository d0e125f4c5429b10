"""Training that is killed, told to stop, or fed with what it cannot use."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from aapt.checkpoint import BadCheckpoint, untrained
from aapt.presets import DEBUG, ROAD
from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.log import RunLog
from aapt.train.loop import LoopConfig, Stage, Turn, train
from aapt.train.state import load_weights
from aapt.worlds.clips import BadRecording, Episode
from aapt.worlds.latents import encode
from tests.aapt.players import noise_clips
from tests.aapt.recordings import record_squares

STEADY = LoopConfig(steps=60, learning_rate=1e-3, warmup_steps=5, evaluate_every=25, save_every_s=0.0)


def adapt() -> Adapt:
    model = untrained(DEBUG)
    return Adapt(model, noise_clips(model), noise_clips(model), AdaptConfig(clips=2, length=4))


def adversarial(perturbation: float = 0.1) -> Adversarial:
    model = untrained(DEBUG)
    torch.manual_seed(0)  # the heads of the discriminator begin at random
    config = AdversarialConfig(clips=1, length=4, perturbation=perturbation)
    return Adversarial(model, model.dit, noise_clips(model), noise_clips(model), config)


class Signalled:
    """A stage whose process gets a signal in the middle of a step."""

    def __init__(self, stage: Stage[Any], number: signal.Signals, at_step: int) -> None:
        self.model = stage.model
        self.evaluate = stage.evaluate
        self._stage = stage
        self._number = number
        self._left = at_step

    @property
    def turns(self) -> Sequence[Turn[Any]]:
        return self._stage.turns

    def draw(self, generator: torch.Generator) -> Any:
        if self._left == 0:
            os.kill(os.getpid(), self._number)
        self._left -= 1
        return self._stage.draw(generator)


def killed_run(_: int, run: Path) -> None:
    torch.set_num_threads(1)
    train(Signalled(adapt(), signal.SIGKILL, at_step=47), STEADY, run)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_losses_bit_for_bit(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        spawn(killed_run, (tmp_path / "killed",))
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 47
    for run in ("killed", "whole"):
        train(adapt(), STEADY, tmp_path / run)
    logs = {run: (tmp_path / run / "log.jsonl").read_text() for run in ("killed", "whole")}
    assert '"step": 60' in logs["whole"]
    assert logs["killed"] == logs["whole"]


def test_lines_of_steps_that_come_again_are_dropped_and_so_is_half_a_line(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for step in (20, 40, 60):
            log.write(step, {"loss": 1.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 80, "lo')
    with RunLog(tmp_path, 45) as log:
        log.write(60, {"loss": 2.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(20, 1.0), (40, 1.0), (60, 2.0)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_finishes_the_step_and_saves(
    number: signal.Signals, tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    train(Signalled(adapt(), number, at_step=3), replace(STEADY, save_every_s=999.0), tmp_path)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 4
    assert signal.getsignal(number) is before


def test_a_loss_that_is_not_finite_stops_before_it_moves_anything_and_says_which_term(
    tmp_path: Path,
) -> None:
    config = replace(STEADY, steps=2, optimizer="rmsprop")
    train(adversarial(), config, tmp_path)
    good = (tmp_path / "state.pt").read_bytes()
    broken = adversarial(perturbation=float("inf"))
    said = "step 2: discriminator penalty is nan, loss is nan, .*and step 2 is saved: a lower learning rate"
    with pytest.raises(FloatingPointError, match=said):
        train(broken, replace(config, steps=4), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == good
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["networks"]["discriminator"]
    for name, p in broken.discriminator.state_dict().items():
        assert torch.equal(p, kept[name])
    train(adversarial(), replace(config, steps=4), tmp_path)


def test_a_clip_that_is_too_short_is_named_with_both_lengths(tmp_path: Path) -> None:
    model = untrained(DEBUG)
    short = noise_clips(model, episodes=1, latents=12)
    stage = Adapt(model, short, short, AdaptConfig(clips=1, length=13))
    with pytest.raises(BadRecording, match="episode 0 episode-00000 has 12 latents, and 13 are asked for"):
        train(stage, STEADY, tmp_path)
    with pytest.raises(BadRecording, match="12 latents, and 14 are asked for; record 57 frames or more"):
        short.pick([(0, 2)], 6)


def test_damaged_recordings_are_named_skipped_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, paths, cache = untrained(DEBUG).vae, record_squares(tmp_path, 4, frames=41), tmp_path / "latents.pt"
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    paths[2].write_bytes(b"no recording")
    names = [episode.name for episode in encode(vae, paths, cache)]
    assert names == ["episode-00000", "episode-00003"]
    said = capsys.readouterr().err
    assert "skipped: " + str(paths[1]) in said
    assert "skipped: " + str(paths[2]) in said
    assert "skipped 2 of 4 recordings" in said
    assert [episode.name for episode in encode(vae, paths, cache)] == names
    assert "skipped 2 of 4 recordings" in capsys.readouterr().err
    # Other recordings, and another codec, are encoded anew.
    assert [episode.name for episode in encode(vae, paths[:3], cache)] == names[:1]
    (before,) = encode(vae, paths[:1], cache)
    (after,) = encode(untrained(DEBUG, seed=3).vae, paths[:1], cache)
    assert not torch.equal(before.latents, after.latents)
    assert capsys.readouterr().err.count("encoding anew") == 3
    cache.write_bytes(cache.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"latents\.pt cannot be read .*; delete it"):
        encode(vae, paths, cache)
    with pytest.raises(BadRecording, match=r"none of 1 recordings can be used: .*00002.npz cannot be read"):
        encode(vae, paths[2:3], tmp_path / "others.pt")


def test_a_recording_of_another_world_is_skipped_and_a_folder_of_them_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae, paths = untrained(DEBUG).vae, record_squares(tmp_path, 3, frames=41)
    for path, change in (
        (paths[0], {"frames": np.zeros((41, 48, 64, 3), np.uint8)}),
        (paths[1], {"controls": np.zeros((41, 6), np.uint8)}),
    ):
        replace(Episode.load(path), **change).save(path)
    (kept,) = encode(vae, paths, tmp_path / "latents.pt", DEBUG)
    assert kept.name == "episode-00002"
    said = capsys.readouterr().err
    assert (
        f"{paths[0]} has pictures of 64x48 and 4 keys, and debug wants 32x32 and 4; name recordings" in said
    )
    assert f"{paths[1]} has pictures of 32x32 and 6 keys, and debug wants 32x32 and 4" in said
    assert "skipped 2 of 3 recordings" in said
    with pytest.raises(
        BadRecording, match=r"none of 2 recordings can be used: .*32x32 and 6 keys, and debug"
    ):
        encode(vae, paths[:2], tmp_path / "others.pt", DEBUG)
    assert not (tmp_path / "others.pt").exists()


def test_a_recording_of_less_than_a_latent_is_refused_with_its_frames(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [*record_squares(tmp_path, 1, frames=3)]
    with pytest.raises(BadRecording, match="none of 1 recordings"):
        encode(untrained(DEBUG).vae, paths, tmp_path / "latents.pt")
    assert "has 3 frames; one latent after the first picture takes 5" in capsys.readouterr().err


def test_a_run_of_another_stage_preset_or_optimizer_is_not_gone_on_with(tmp_path: Path) -> None:
    kind = {"stage": "adapt", "preset": "debug", "late": "0.0"}
    config = replace(STEADY, steps=1, kind=kind)
    train(adapt(), config, tmp_path)
    with pytest.raises(BadCheckpoint, match="was saved by stage 'adapt', this is stage 'distill'"):
        train(adapt(), replace(config, kind={**kind, "stage": "distill"}), tmp_path)
    with pytest.raises(BadCheckpoint, match="was saved by preset 'debug', this is preset 'road'"):
        train(adapt(), replace(config, kind={**kind, "preset": "road"}), tmp_path)
    with pytest.raises(BadCheckpoint, match=r"was saved by late '0\.0', this is late '0\.5'"):
        train(adapt(), replace(config, kind={**kind, "late": "0.5"}), tmp_path)
    with pytest.raises(BadCheckpoint, match=r"is a run of adapt; this wants one of distill"):
        load_weights(untrained(DEBUG).dit, tmp_path, ["distill"])
    load_weights(untrained(DEBUG).dit, tmp_path, ["adapt"])
    with pytest.raises(BadCheckpoint, match="saved by optimizer 'adamw', this is optimizer 'muon'"):
        train(adapt(), replace(config, optimizer="muon"), tmp_path)
    (tmp_path / "state.pt").write_bytes((tmp_path / "state.pt").read_bytes()[:5000])
    with pytest.raises(BadCheckpoint, match=r"state\.pt cannot be read"):
        train(adapt(), config, tmp_path)


def test_weights_of_another_preset_damaged_ones_and_none_are_refused(tmp_path: Path) -> None:
    torch.save(untrained(ROAD).dit.state_dict(), tmp_path / "weights.pt")
    network = untrained(DEBUG).dit
    with pytest.raises(
        BadCheckpoint, match=r"weights\.pt belongs to another model: \d+ tensors differ, first"
    ):
        load_weights(network, tmp_path, ["adapt"])
    (tmp_path / "weights.pt").write_bytes(b"cut short")
    with pytest.raises(BadCheckpoint, match=r"weights\.pt cannot be read"):
        load_weights(network, tmp_path, ["adapt"])
    with pytest.raises(BadCheckpoint, match=r"nowhere/weights\.pt is missing"):
        load_weights(network, tmp_path / "nowhere", ["adapt"])


class Writer:
    """What TensorBoard was told."""

    told: list[tuple[str, float, int]]

    def __init__(self, folder: str, purge_step: int) -> None:
        Writer.told = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        Writer.told.append((tag, scalar_value, global_step))

    def close(self) -> None:
        pass


def test_tensorboard_gets_the_numbers_of_the_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    train(adapt(), replace(STEADY, steps=20, evaluate_every=20), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    loss = next(line["loss"] for line in lines if "loss" in line)
    assert ("loss", loss, 20) in Writer.told
    tags = {tag for tag, _, _ in Writer.told}
    assert {"held_out/error_15", "observed/network/activation_rms/blocks.0"} <= tags


def test_without_tensorboard_the_log_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(adapt(), replace(STEADY, steps=20, evaluate_every=20), tmp_path)
    assert capsys.readouterr().out.count("no TensorBoard here") == 1
    assert '"held_out"' in (tmp_path / "log.jsonl").read_text()
