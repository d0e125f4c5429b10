"""The recipe's commands, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import aapt
from aapt.checkpoint import untrained
from aapt.presets import DEBUG, ROAD
from aapt.train.__main__ import main
from tests.aapt.recordings import record_squares

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
SOURCES = str(Path(aapt.__path__[0]).parent)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Recordings, one of them damaged, and a codec."""
    for name in ("data", "codec"):
        (tmp_path / name).mkdir()
    record_squares(tmp_path / "data", 10)
    damaged = tmp_path / "data" / "episode-00000.npz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    torch.save(untrained(DEBUG).vae.state_dict(), tmp_path / "codec" / "weights.pt")
    return tmp_path


def typed(world: Path, stage: str, steps: int, *more: str) -> list[str]:
    folders = ("--data", str(world / "data"), "--codec", str(world / "codec"), "--run", str(world / stage))
    sizes = ("--steps", str(steps), "--clips", "2", "--length", "4", "--evaluate-every", "99")
    return [stage, "--preset", "debug", *folders, *sizes, "--no-bfloat16", *more]


def command(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["aapt.train", *words])
    main()


@pytest.mark.slow
def test_two_processes_adapt_one_goes_on_and_distills(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("--sequence-shards", "2", "--checkpoint-activations")
    done = subprocess.run(
        [*TORCHRUN, "--", "aapt.train", *typed(world, "adapt", 20, *both)],
        env={**os.environ, "PYTHONPATH": SOURCES, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "skipped 1 of 10 recordings" in done.stderr
    command(monkeypatch, typed(world, "adapt", 21))
    lines = [json.loads(line) for line in (world / "adapt" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 20, 20, 21]
    assert sorted(path.name for path in (world / "adapt").glob("*-0000*")) == [
        "clip-000020.mp4", "clip-000021.mp4", "sheet-000020.png", "sheet-000021.png",
    ]  # fmt: skip
    command(monkeypatch, typed(world, "distill", 1, "--init", str(world / "adapt")))
    assert (world / "distill" / "weights.pt").exists()


def test_what_does_not_belong_together_is_one_sentence(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (world / "road").mkdir()
    torch.save(untrained(ROAD).dit.state_dict(), world / "road" / "weights.pt")
    with pytest.raises(SystemExit, match=r"^distill: .*weights\.pt belongs to another model"):
        command(monkeypatch, typed(world, "distill", 1, "--init", str(world / "road")))
    torch.save(untrained(ROAD).vae.state_dict(), world / "road" / "weights.pt")
    with pytest.raises(
        SystemExit, match=r"^adapt: none of 10 .* 32x32 and 4 keys, and road wants 128x80 and 4"
    ):
        command(monkeypatch, [*typed(world, "adapt", 1), "--preset", "road", "--codec", str(world / "road")])
    with pytest.raises(SystemExit, match=r"^adapt: episode 0 episode-00001 has 76 latents, and 99 are asked"):
        command(monkeypatch, [*typed(world, "adapt", 1), "--length", "99"])
