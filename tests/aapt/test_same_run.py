"""A run goes on as what it was begun as, and begins with what belongs to it."""

import sys
from pathlib import Path

import pytest
import torch

from aapt.checkpoint import BadCheckpoint, untrained
from aapt.presets import DEBUG
from aapt.train import adapt, adversarial, distill
from aapt.train.__main__ import main
from aapt.train.state import check_kind, load_weights
from tests.aapt.recordings import record_squares

WHAT_WAS_NOTED_ONCE = {"stage": "adapt", "preset": "debug", "optimizer": "adamw"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Recordings and two codecs; runs are not judged, which takes long."""
    (tmp_path / "data").mkdir()
    record_squares(tmp_path / "data", 9)
    for seed, name in enumerate(("codec", "other")):
        (tmp_path / name).mkdir()
        torch.save(untrained(DEBUG, seed).vae.state_dict(), tmp_path / name / "weights.pt")
    for stage in (adapt, distill, adversarial):
        monkeypatch.setattr(stage, "judge", lambda *_: {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, stage: str, *more: str) -> None:
    folders = ("--data", "data", "--codec", "codec", "--run", stage)
    if stage == "export":
        folders = (*folders[:-2], "--out", "out")
    words = [stage, "--preset", "debug", *folders, "--no-bfloat16"]
    short = ("--clips", "1", "--length", "4") if stage != "export" else ()
    monkeypatch.setattr(sys, "argv", ["aapt.train", *words, *short, *more])
    main()


def kept(run: Path) -> dict[str, str]:
    kind: dict[str, str] = torch.load(run / "state.pt", weights_only=True)["kind"]
    return kind


def test_an_option_that_is_dropped_or_added_is_named_with_both_values(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "adapt", "--steps", "1", "--late", "0.5")
    assert kept(world / "adapt").items() >= {"late": "0.5", "pure_noise": "0.3", "recycling": "True"}.items()
    with pytest.raises(SystemExit, match=r"by late '0\.5', this is late '0\.0'; begin as it was begun"):
        typed(monkeypatch, "adapt", "--steps", "2")
    both = r"late '0\.5', history_noise '0\.0', this is late '0\.25', history_noise '0\.1'"
    with pytest.raises(SystemExit, match=both):
        typed(monkeypatch, "adapt", "--steps", "2", "--late", "0.25", "--history-noise", "0.1")
    typed(monkeypatch, "adapt", "--steps", "2", "--late", "0.5")


def test_another_codec_other_recordings_and_another_teacher_make_another_run(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "adapt", "--steps", "1")
    typed(monkeypatch, "distill", "--steps", "1", "--init", "adapt")
    with pytest.raises(SystemExit, match=r"was saved by codec '[0-9a-f]{12}', this is codec"):
        typed(monkeypatch, "adapt", "--steps", "2", "--codec", "other")
    assert not (world / "other" / "latents.pt").exists()  # told before anything is encoded
    with pytest.raises(SystemExit, match=r"^distill: adapt was trained with codec '.*', this wants codec '"):
        typed(monkeypatch, "distill", "--init", "adapt", "--codec", "other", "--run", "new")
    typed(monkeypatch, "adapt", "--steps", "2")
    with pytest.raises(SystemExit, match=r"was saved by teacher '.*', this is teacher '"):
        typed(monkeypatch, "distill", "--steps", "2", "--init", "adapt")
    record_squares(world / "data", 10)
    with pytest.raises(SystemExit, match=r"was saved by data '9 recordings .*', this is data '10 recordings"):
        typed(monkeypatch, "adapt", "--steps", "3")


def test_a_run_that_noted_less_goes_on_and_notes_the_rest(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "adapt", "--steps", "1")
    state = torch.load(world / "adapt" / "state.pt", weights_only=True)
    torch.save({**state, "kind": WHAT_WAS_NOTED_ONCE}, world / "adapt" / "state.pt")
    with pytest.raises(SystemExit, match="was saved by optimizer 'adamw', this is optimizer 'muon'"):
        typed(monkeypatch, "adapt", "--steps", "2", "--optimizer", "muon")
    typed(monkeypatch, "adapt", "--steps", "2", "--late", "0.5")
    assert kept(world / "adapt")["late"] == "0.5"
    del state["kind"]
    torch.save(state, world / "adapt" / "state.pt")
    typed(monkeypatch, "adapt", "--steps", "2", "--late", "0.25")


def test_worlds_by_sight_are_played_beside_recordings_of_such_and_are_part_of_a_run(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "adapt", "--steps", "1")
    typed(monkeypatch, "distill", "--steps", "1", "--init", "adapt")
    stage3 = ("adversarial", "--init", "distill", "--adapted", "adapt", "--clips", "2")
    by_sight = ("--by-sight", "1", "--sighted-data", "sighted")
    with pytest.raises(SystemExit, match=r"no episodes in sighted; .* --out sighted --by-sight$"):
        typed(monkeypatch, *stage3, *by_sight, "--steps", "1")
    (world / "sighted").mkdir()
    record_squares(world / "sighted", 2)  # none is held out: they are not judged on
    typed(monkeypatch, *stage3, *by_sight, "--steps", "1")
    noted = kept(world / "adversarial")
    assert noted["by_sight"] == "1.0"
    assert noted["sighted"].startswith("2 recordings")
    typed(monkeypatch, *stage3, *by_sight, "--steps", "2")
    with pytest.raises(SystemExit, match=r"was saved by by_sight '1\.0', .*, this is by_sight '0\.0'"):
        typed(monkeypatch, *stage3, "--steps", "3")


def test_a_run_from_before_worlds_by_sight_had_none(tmp_path: Path) -> None:
    torch.save({"kind": {"stage": "adversarial", "late": "0.25"}}, tmp_path / "state.pt")
    check_kind(tmp_path, {"stage": "adversarial", "late": "0.25", "by_sight": "0.0"})
    with pytest.raises(BadCheckpoint, match=r"was saved by by_sight '0\.0', this is by_sight '0\.5'"):
        check_kind(tmp_path, {"stage": "adversarial", "late": "0.25", "by_sight": "0.5"})


def test_what_was_said_and_is_not_said_now_is_another_run(tmp_path: Path) -> None:
    torch.save({"kind": {**WHAT_WAS_NOTED_ONCE, "extensions": "2"}}, tmp_path / "state.pt")
    with pytest.raises(BadCheckpoint, match="was saved by extensions '2', this is extensions None"):
        check_kind(tmp_path, WHAT_WAS_NOTED_ONCE)
    check_kind(tmp_path / "nothing", WHAT_WAS_NOTED_ONCE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"stage": "pretrain"}, "is a run of pretrain; this wants one of adapt, distill, adversarial"),
        ({"stage": "adapt", "recycling": "False"}, "with recycling 'False', this wants recycling 'True'"),
        ({"stage": "adapt", "codec": "0123"}, "was trained with codec '0123', this wants codec '"),
    ],
)
def test_only_a_network_that_the_preset_says_is_exported(
    world: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, str], said: str
) -> None:
    (world / "run").mkdir()
    torch.save(untrained(DEBUG).dit.state_dict(), world / "run" / "weights.pt")
    torch.save({"kind": kind}, world / "run" / "state.pt")
    with pytest.raises(SystemExit, match=f"^export: run .*{said}"):
        typed(monkeypatch, "export", "--init", "run")
    assert not (world / "out").exists()
    torch.save({"kind": WHAT_WAS_NOTED_ONCE}, world / "run" / "state.pt")
    typed(monkeypatch, "export", "--init", "run")
    assert (world / "out" / "model.json").exists()


def test_a_codec_that_has_learnt_stays_the_same_to_the_bit(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["codec", "--preset", "debug", "--data", "data", "--run", "learnt", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["aapt.train", *words])
    main()
    assert (world / "learnt" / "clip-000001.mp4").exists()
    before = (world / "learnt" / "weights.pt").read_bytes()
    vae = untrained(DEBUG).vae
    load_weights(vae, world / "learnt", ["codec"])
    assert vae.mean.any()
    monkeypatch.setattr("aapt.train.__main__.normalise", lambda *_: pytest.fail("measured again"))
    main()
    assert (world / "learnt" / "weights.pt").read_bytes() == before
