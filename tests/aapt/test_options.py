"""What is typed is used, or refused by name before any work."""

import math
import sys
from pathlib import Path

import pytest

from aapt.train import ablations
from aapt.train.__main__ import main
from aapt.train.options import loop_config, parser

NOWHERE = ("--preset", "debug", "--data", "nowhere", "--run", "run", "--init", "run", "--codec", "codec")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("adapt --evaluate-every 0", "evaluate_every is 0; choose 1 or more"),
        ("adapt --steps -1", "steps is -1; choose 1 or more"),
        ("adapt --learning-rate 0", "learning_rate is 0.0; choose more than 0"),
        ("adapt --warm-up -1", "warmup_steps is -1; choose 0 or more"),
        ("adapt --clip-norm 0", "clip_norm is 0.0; choose more than 0"),
        ("adapt --length 0", "length is 0; choose 1 or more"),
        ("adapt --own-history 2", "own_history is 2.0; choose 0 to 1"),
        ("adapt --late nan", "late is nan; choose 0 to 1"),
        ("pretrain --shift 0", "shift is 0.0; choose more than 0"),
        ("distill --grid-steps 0", "grid_steps is 0; choose 1 or more"),
        ("adversarial --clips 0", "clips is 0; choose 1 or more"),
        ("adversarial --extensions -1", "extensions is -1; choose 0 or more"),
    ],
)
def test_what_is_out_of_range_is_a_sentence(monkeypatch: pytest.MonkeyPatch, words: str, said: str) -> None:
    monkeypatch.setattr(sys, "argv", ["aapt.train", *words.split(), *NOWHERE])
    with pytest.raises(SystemExit, match=f"^{words.split()[0]}: {said}$"):
        main()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("adapt --extensions 5 --teacher-forced", "adapt has no --extensions, which is for adversarial"),
        ("adapt --no-is-causal", "adapt has no --is-causal, which is for adversarial"),
        ("pretrain --late 0.5", "pretrain has no --late, which is for adapt, distill, adversarial"),
        ("distill --adapted run", "distill has no --adapted, which is for adversarial"),
        ("adversarial --out out", "adversarial has no --out, which is for export"),
        ("adapt --threads 0", "--threads is 0; choose 1 or more"),
        ("adapt --by-sight 0.5", "adapt has no --by-sight, which is for adversarial"),
        ("adversarial --by-sight 0.5", "--by-sight and --sighted-data go together"),
        ("adversarial --sighted-data data", "--by-sight and --sighted-data go together"),
        ("adversarial --by-sight 1 --sighted-data data --preset maze", "looks like, and nothing of maze"),
    ],
)
def test_what_is_for_another_stage_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["aapt.train", words.split()[0], *NOWHERE, *words.split()[1:]])
    with pytest.raises(SystemExit):
        main()
    assert said in capsys.readouterr().err


def test_stages_learn_as_they_always_did_unless_they_are_told() -> None:
    for words, rate, optimizer, final, clip in (
        (("codec",), 8e-4, "adamw", 0.05, 0.5),
        (("adapt",), 8e-4, "adamw", 0.05, 1.0),
        (("adversarial",), 2e-5, "rmsprop", 1.0, 1.0),
        (("adversarial", "--clip-norm", "inf", "--learning-rate", "3e-6"), 3e-6, "rmsprop", 1.0, math.inf),
    ):
        made = loop_config(parser().parse_args([*words, *NOWHERE]))
        assert (made.learning_rate, made.optimizer, made.final_rate) == (rate, optimizer, final)
        assert made.clip_norm == clip
        assert made.warmup_steps == 50
    assert loop_config(parser().parse_args(["adversarial", "--warm-up", "0", *NOWHERE])).warmup_steps == 0


def test_ablations_say_which_run_they_lack_and_how_it_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ablations", *words])
        with pytest.raises(SystemExit) as told:
            ablations.main()
        return str(told.value)

    assert refused() == (
        "ablations: runs/codec/weights.pt is missing, and ablations begin with it: `make train` makes it"
    )
    for run in ("codec", "adapt", "distill", "aapt"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "weights.pt").touch()
    assert refused("--only", "unrecycled", "--seeds", "3") == (
        "ablations: runs/ablations/unrecycled-adapt-3/weights.pt is missing, and ablations begin with it:"
        " --only unrecycled-adapt makes it"
    )
    (tmp_path / "runs" / "distill" / "weights.pt").unlink()
    assert "`make train` makes it" in refused()
    (tmp_path / "runs" / "distill" / "weights.pt").touch()
    assert refused() == "ablations: checkpoints/road is no checkpoint folder; `make train` makes out/road"
    (tmp_path / "checkpoints" / "road").mkdir(parents=True)
    (tmp_path / "checkpoints" / "road" / "model.json").touch()
    # Nothing is there that could be trained on, so the first command fails.
    monkeypatch.setattr(ablations.Run, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert refused().endswith("'raise SystemExit(3)' ended with 3")
