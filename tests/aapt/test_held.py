"""What a step is said to hold is what a step holds."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from aapt.checkpoint import untrained
from aapt.plan.count import count
from aapt.plan.memory import HeldBytes, pass_bytes
from aapt.presets import DEBUG, WAN_1_3B
from aapt.train import paper
from aapt.train.adapt import Adapt, AdaptConfig
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import Distill, DistillConfig
from aapt.train.held import Division, divide, step_bytes
from aapt.train.loop import LoopConfig, Stage, train
from aapt.worlds.latents import Clips, EncodedEpisode

# Wide and deep enough that clips, masks, heads and caches weigh what weights weigh.
SMALL = replace(DEBUG, width_px=64, height_px=64, dit=replace(DEBUG.dit, dim=64, layers=6, ffn_dim=128))
LENGTH = 12
CONFIGS: dict[str, AdaptConfig | DistillConfig | AdversarialConfig] = {
    "adapt": AdaptConfig(4, LENGTH),
    "distill": DistillConfig(4, LENGTH),
    "adversarial": AdversarialConfig(4, LENGTH),
    "long": AdversarialConfig(4, LENGTH, extensions=2),
}
# What is not counted: clips and noise themselves, the codec, embeddings, and what a block's last operations
# and an optimizer's step make on the way. At this size it is a fifth; at the paper's, less.
CLOSE = 0.25


def stage(config: Any, micro_clips: int) -> Stage[Any]:
    model = untrained(SMALL)
    model.dit.is_checkpointed = True
    latents = torch.randn(80, *SMALL.latent_shape)
    clips = Clips([EncodedEpisode(latents[::4], latents, torch.zeros(80, 4, 4), "noise")], model.text)
    if isinstance(config, AdversarialConfig):
        return Adversarial(model, model.dit, clips, clips, config, micro_clips=micro_clips)
    kind: Any = Adapt if isinstance(config, AdaptConfig) else Distill
    made: Stage[Any] = kind(model, clips, clips, config, micro_clips=micro_clips)
    return made


def most_bytes(name: str, micro_clips: int, run: Path) -> int:
    optimizer = "rmsprop" if name in ("adversarial", "long") else "adamw"
    held = HeldBytes()
    with held:
        learning = stage(CONFIGS[name], micro_clips)
        with patch.object(learning, "evaluate", return_value={}):
            train(learning, LoopConfig(2, 1e-4, optimizer=optimizer), run)
    return held.most_bytes


@pytest.mark.slow
@pytest.mark.parametrize("micro_clips", [1, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_bytes_of_a_step_are_those_that_a_run_holds(name: str, micro_clips: int, tmp_path: Path) -> None:
    moments = 1 if name in ("adversarial", "long") else 2
    counted = step_bytes(
        CONFIGS[name], count(SMALL), Division(1, 1), micro_clips, moments=moments, bfloat16=False
    )
    assert counted == pytest.approx(most_bytes(name, micro_clips, tmp_path), rel=CLOSE)


@pytest.mark.parametrize("is_small", [True, False])
def test_a_pass_holds_its_mask_or_copies_of_what_is_seen(is_small: bool) -> None:
    preset = SMALL if is_small else replace(SMALL, width_px=192, height_px=192)
    model, length = untrained(preset), 40 if is_small else 12
    model.dit.is_checkpointed = True
    clip = torch.zeros(1, length, *preset.latent_shape)
    text = torch.zeros(1, preset.dit.text_tokens, preset.dit.text_dim)
    with HeldBytes() as held:
        model.dit(clip, clip, torch.ones(1), text, torch.zeros(1, length, 4, 4)).sum().backward()
    weights = 4 * count(preset).dit_weights
    counted = pass_bytes(count(preset), length, 1, bfloat16=False)
    assert held.most_bytes - weights == pytest.approx(counted, rel=CLOSE)


def test_ranks_share_out_what_is_kept_and_gather_what_plays() -> None:
    counted, config = count(WAN_1_3B), AdaptConfig(clips=8, length=30)
    assert divide(counted, 8) == Division(8, 4)  # of twelve heads
    assert [divide(counted, 8).clips(batch) for batch in (256, 3)] == [128, 2]
    one, eight, sixteen = (
        step_bytes(config, counted, Division(gpus, sequence), 8, moments=2)
        for gpus, sequence in ((1, 1), (8, 1), (16, 1))
    )
    weights = 4 * counted.dit_weights
    assert one - eight == pytest.approx(
        5 * weights * 7 / 8 - weights, rel=0.2
    )  # two blocks are gathered besides
    assert eight - sixteen == pytest.approx(5 * weights / 16)
    parts = [step_bytes(config, counted, Division(8, 1), n, moments=2) for n in (1, 2, 8)]
    # Gradients that are added up over parts lie whole on every GPU.
    assert parts[1] - parts[0] == pytest.approx((parts[2] + weights * 7 / 8 - parts[0]) / 7)


def test_the_papers_curriculum_says_what_our_loop_holds_and_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["paper", "--preset", "wan-1.3b", "--gpus", "8"]
    monkeypatch.setattr(sys, "argv", [*asked, "--json"])
    paper.main()
    said = json.loads(capsys.readouterr().out)
    assert said["hours"] == pytest.approx(1266, abs=1)
    first, long, played = (said["phases"][i] for i in (0, 2, 4))
    assert (first["clips"], first["row_clips"], first["fitting_gpus"]) == (256, 128, 8)
    assert 1 <= first["micro_clips"] < 16
    assert first["memory_gb"] <= 0.9 * 80
    at_once = step_bytes(AdaptConfig(clips=128, length=30), count(WAN_1_3B), Division(8, 4), 128, moments=2)
    assert at_once > 128 * 1.08e9  # the inputs of its blocks alone
    # 140,400 tokens: under a mask each GPU would hold 3 bytes for each pair of them, 59 GB.
    assert (long["micro_clips"], long["fitting_gpus"]) == (2, 8)
    assert long["memory_gb"] < 3 * 140_400**2 / 1e9
    # The caches of 128 clips that are played.
    assert (played["micro_clips"], played["fitting_gpus"]) == (0, 0)
    assert played["memory_gb"] > 128 * 2.6
    monkeypatch.setattr(sys, "argv", asked)
    paper.main()
    assert "all: 14.4 ZFLOP, 1,266 hours" in capsys.readouterr().out
