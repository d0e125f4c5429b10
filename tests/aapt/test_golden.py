"""Fifty steps of every stage give the losses that they always gave; `python tests/aapt/test_golden.py` writes
them anew.

A change that is not meant to change what is learnt must not change these; one that is says so in its commit.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from aapt.checkpoint import untrained
from aapt.presets import DEBUG
from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.codec import Codec
from aapt.train.distill import Distill, DistillConfig
from aapt.train.loop import LoopConfig, Stage, train
from aapt.train.pretrain import Pretrain, PretrainConfig
from aapt.worlds.latents import Clips, EncodedEpisode

GOLDEN = Path(__file__).with_name("golden.json")
STAGES = ("codec", "pretrain", "adapt", "distill", "adversarial")
# Processors add in different orders, and fifty steps make the most of it.
CLOSE = 5e-3


def losses(name: str, run: Path) -> dict[str, list[float]]:
    """What the log says of a run of `name`: smoothed losses after 20 and 40 steps."""
    torch.manual_seed(0)  # the heads of the discriminator begin at random
    loop = LoopConfig(steps=50, learning_rate=1e-3, warmup_steps=5, evaluate_every=100, seed=7)
    train(stage(name), loop, run)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    said = [line for line in lines if not line.keys() & {"held_out", "observed"}]
    return {key: [line[key] for line in said] for key in said[0] if key.endswith("loss")}


def stage(name: str) -> Stage[Any]:
    model = untrained(DEBUG)
    random = torch.Generator().manual_seed(2)
    if name == "codec":
        videos = [torch.randint(256, (141, 32, 32, 3), generator=random).byte() for _ in range(2)]
        return Codec(model.vae, videos, videos, crop_px=32)
    episodes = []
    for _ in range(2):
        controls = torch.randint(0, 2, (80, 4, 4), generator=random).float()
        drift = controls.mean((1, 2))[:, None, None, None].cumsum(0).sin()
        latents = drift + 0.3 * torch.randn(80, 4, 4, 4, generator=random)
        episodes.append(EncodedEpisode(latents[::4], latents, controls, "waves"))
    clips = Clips(episodes, model.text)
    if name == "pretrain":
        return Pretrain(model, clips, clips, PretrainConfig(clips=2, length=5))
    if name == "adapt":
        return Adapt(model, clips, clips, AdaptConfig(clips=2, length=5, late=0.5, own_history=0.5))
    if name == "distill":
        return Distill(model, clips, clips, DistillConfig(clips=2, length=5, grid_steps=8))
    config = AdversarialConfig(clips=2, length=5, extensions=1, late=0.5)
    return Adversarial(model, model.dit, clips, clips, config)


@pytest.mark.parametrize("name", STAGES)
def test_fifty_steps_give_the_losses_that_they_always_gave(name: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    made = losses(name, tmp_path)
    assert made.keys() == golden.keys()
    for key, values in golden.items():
        assert made[key] == pytest.approx(values, rel=CLOSE), key


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = {name: losses(name, Path(folder) / name) for name in STAGES}
    GOLDEN.write_text(json.dumps(made, indent=2) + "\n")
