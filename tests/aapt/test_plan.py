"""The cost model: what it counts, what follows from it, and the paper's own scale."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from aapt.checkpoint import untrained
from aapt.dit.model import DiT
from aapt.plan.__main__ import main
from aapt.plan.choices import choices
from aapt.plan.cost import Hardware, Plan, plan, with_light_decoder
from aapt.plan.count import count
from aapt.plan.gpus import A100, GPUS, H100
from aapt.plan.training import adapt_flop, adversarial_flop, distill_flop, forward_flop
from aapt.presets import AAPT_8B, AAPT_8B_720P, DEBUG, LARGE_PRESETS, PRESETS, ROAD, WAN_1_3B, Preset
from aapt.rollout import Rollout
from aapt.train import paper
from aapt.train.adversarial_config import AdversarialConfig


def on(preset: Preset, gpus: int = 1, efficiency: float = 0.5) -> Plan:
    return plan(count(preset), Hardware(H100, gpus, efficiency))


@pytest.mark.parametrize(
    ("preset", "linear_tflop", "attention_tflop", "cache_gb"),
    [(AAPT_8B, 9.75, 20.5, 17.2), (AAPT_8B_720P, 29.4, 98.3, 27.3)],
)
def test_a_step_at_the_papers_scale_costs_what_the_arithmetic_says(
    preset: Preset, linear_tflop: float, attention_tflop: float, cache_gb: float
) -> None:
    counted = count(preset)
    assert counted.step.linear_flop / 1e12 == pytest.approx(linear_tflop, rel=0.03)
    assert counted.step.attention_flop / 1e12 == pytest.approx(attention_tflop, rel=0.03)
    assert counted.step.flop / 1e12 == pytest.approx(linear_tflop + attention_tflop, rel=0.03)
    assert on(preset).cache_bytes / 1e9 == pytest.approx(cache_gb, rel=0.03)
    # Only the visual stream of the paper's 8 B runs in a step: 12·dim² in each of 36 layers.
    assert counted.step.weights == pytest.approx(12 * 3072**2 * 36, rel=0.03)


def test_one_h100_and_eight_take_the_papers_milliseconds_at_the_roofline() -> None:
    one, eight = on(AAPT_8B).roofline, on(AAPT_8B_720P, gpus=8).roofline
    assert 1e3 * one.step_s == pytest.approx(30.6, rel=0.03)
    assert 1e3 * one.memory_s == pytest.approx(7.4, rel=0.05)  # with its own text
    assert 1e3 * eight.compute_s == pytest.approx(16.1, rel=0.03)
    assert 1e3 * eight.collectives_s == pytest.approx(0.77, rel=0.03)


def test_one_efficiency_explains_both_frame_rates_of_the_paper() -> None:
    for preset, gpus, frames_per_s in ((AAPT_8B, 1, 24.8), (AAPT_8B_720P, 8, 24.2)):
        made = plan(with_light_decoder(count(preset)), Hardware(H100, gpus, efficiency=0.23))
        assert 4 / made.stated.serial_s == pytest.approx(frames_per_s, rel=0.03)


def test_a_counted_step_is_the_step_that_a_cpu_takes() -> None:
    rollout = Rollout(untrained(ROAD), slots=1)
    rollout.warm_up()
    rollout.open(0, image=None, prompt="", seed=0)
    taken = []
    for _ in range(ROAD.dit.window + 3):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            rollout.step({0: torch.zeros(4, 4)})
        taken.append(counter.get_total_flops())
    counted = count(ROAD)
    assert taken == [counted.step_flop(min(i, ROAD.dit.window + 2)) for i in range(1, len(taken) + 1)]
    assert taken[-1] == counted.step.flop


def test_a_counted_cache_is_the_cache_that_a_rollout_allocates() -> None:
    for preset in (DEBUG, ROAD):
        counted = count(preset)
        allocated = Rollout(untrained(preset), slots=3).cache_bytes
        assert 3 * 4 * (counted.cache + counted.text_cache) == allocated  # float32 there


@pytest.mark.parametrize("preset", [ROAD, replace(ROAD, width_px=256, height_px=160)], ids=["small", "large"])
@pytest.mark.parametrize("latents", [7, 20])
def test_a_counted_pass_over_a_clip_is_the_pass_that_is_made(preset: Preset, latents: int) -> None:
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        clip, text = torch.empty(1, latents, *preset.latent_shape), torch.empty(1, 12, 64)
        dit, controls = DiT(preset.dit), torch.empty(1, latents, 4, 4)
        with FlopCounterMode(display=False) as counter:
            dit(clip, clip, torch.ones(1), text, controls)
    # The pass embeds its time once, a step does so for every latent.
    assert counter.get_total_flops() == pytest.approx(forward_flop(count(preset), latents), rel=0.003)


def test_what_is_too_large_for_a_cpu_is_planned_and_not_offered_for_training() -> None:
    assert not PRESETS.keys() & LARGE_PRESETS.keys()
    assert all(name == preset.name for name, preset in LARGE_PRESETS.items())


def test_every_preset_has_a_plan_whose_parts_add_up() -> None:
    for preset in (PRESETS | {WAN_1_3B.name: WAN_1_3B}).values():
        counted, made = count(preset), on(preset)
        step = counted.step
        assert step.flop == step.linear_flop + step.attention_flop > counted.first.flop > 0
        assert counted.decode.flop == counted.decode.convolution_flop > 0
        assert 0 < step.weights < counted.dit_weights
        for times in (made.roofline, made.stated):
            assert times.step_s == max(times.compute_s, times.memory_s) + times.collectives_s
            assert times.pipelined_s <= times.serial_s == times.step_s + times.decode_s
        assert made.stated.step_s == pytest.approx(made.roofline.step_s / 0.5)
        assert made.collectives == made.collective_bytes == 0


def test_gpus_of_a_replica_share_the_work_and_the_cache() -> None:
    one, three, eight = on(AAPT_8B), on(AAPT_8B, gpus=3), on(AAPT_8B, gpus=8)
    assert three.roofline.compute_s == pytest.approx(one.roofline.compute_s / 3, rel=0.01)
    # 1196 tokens make 8 shards of 150: the last is padded.
    assert eight.roofline.compute_s == pytest.approx(one.roofline.compute_s * 150 / 1196)
    assert eight.collectives == 2 * 36 + 1
    text_bytes = 2 * one.count.text_cache
    assert eight.cache_bytes - text_bytes == (one.cache_bytes - text_bytes) / 8
    assert eight.weights_bytes == one.weights_bytes


def test_sessions_end_with_the_period_or_with_memory() -> None:
    made = on(AAPT_8B)
    assert made.sessions(is_pipelined=False) == math.floor(4 / 24 / made.stated.serial_s) == 2
    assert made.sessions_in_memory == math.floor((72e9 - made.weights_bytes) / made.cache_bytes) == 3
    fast = Hardware(replace(H100, bf16_flop_per_s=1e18, memory_bytes_per_s=1e15), efficiency=1.0)
    assert plan(made.count, fast).sessions(is_pipelined=False) == 3
    tight = Hardware(replace(H100, memory_bytes=8e9))
    assert plan(made.count, tight).sessions(is_pipelined=True) == 0


def test_what_takes_longest_is_named() -> None:
    counted = count(AAPT_8B)
    slow_memory = Hardware(replace(H100, memory_bytes_per_s=1e11))
    slow_links = Hardware(replace(H100, link_bytes_per_s=1e8), gpus=8)
    assert plan(counted, Hardware(H100)).stated.limit == "DiT compute"
    assert plan(counted, slow_memory).stated.limit == "DiT memory"
    assert plan(counted, slow_links).stated.limit == "collectives"
    assert plan(with_light_decoder(counted), Hardware(H100, gpus=8)).stated.limit == "decode"


def test_fp8_halves_what_is_kept_and_saves_time() -> None:
    counted = count(AAPT_8B)
    bf16, fp8 = (plan(counted, Hardware(H100, linear=p, attention=p)) for p in ("bf16", "fp8"))
    assert fp8.cache_bytes == bf16.cache_bytes / 2
    assert fp8.stated.step_s == pytest.approx(bf16.stated.step_s / 2, rel=0.01)
    with pytest.raises(ValueError, match="A100 SXM 80GB does not multiply fp8; choose bf16"):
        Hardware(A100, linear="fp8")


def test_hardware_that_cannot_be_is_refused_with_what_could() -> None:
    with pytest.raises(
        ValueError, match=r"12 heads of wan-1\.3b do not divide over 8 GPUs; choose from 1, 2, 3"
    ):
        on(WAN_1_3B, gpus=8)
    with pytest.raises(ValueError, match=r"0 GPUs at efficiency 0\.5: give 1 GPU or more"):
        Hardware(H100, gpus=0)


def test_every_choice_lets_eight_gpus_hold_at_least_as_many_sessions() -> None:
    shallow = replace(AAPT_8B_720P, dit=replace(AAPT_8B_720P.dit, layers=2))
    made = list(choices(count(shallow), Hardware(H100, gpus=8), has_light_decoder=False))
    assert [choice.change for choice in made] == [
        "as it is", "window 7", "736x416", "fp8 linear layers", "fp8 everywhere", "all of these"
    ]  # fmt: skip
    for is_pipelined in (False, True):
        best = [choice.best(is_pipelined=is_pipelined) for choice in made]
        assert all(b.replicas * b.gpus_each == 8 for b in best)
        assert min(b.sessions for b in best) == best[0].sessions >= 2
        assert max(b.sessions for b in best) == best[-1].sessions


def test_a_stage_is_a_number_of_passes_over_its_clip() -> None:
    counted = count(replace(DEBUG, width_px=256, height_px=256))
    clip = forward_flop(counted, 10)
    assert clip == counted.text.flop + sum(counted.step_flop(min(i, 6)) for i in range(1, 11))
    small = count(DEBUG)  # under a mask each of ten latents is multiplied with ten
    assert forward_flop(small, 10) == small.text.flop + 10 * small.step_flop(10)
    assert forward_flop(counted, 4) + forward_flop(counted, 6, after=4) == clip + counted.text.flop
    assert adapt_flop(counted, 10) == 4 * clip
    assert distill_flop(counted, 10) == 6 * clip
    assert 25 * clip < adversarial_flop(counted, 10) < 26 * clip  # the heads are the rest
    assert adversarial_flop(counted, 10, 2, 2) > 2.5 * adversarial_flop(counted, 10)


def test_the_curriculum_lasts_as_long_as_the_paper_says() -> None:
    steps = [phase.loop.steps for phase in paper.CURRICULUM]
    assert steps == [20_000, 6_000, 4_000, 5_000, 500, 500, 500]
    assert [phase.clip_s for phase in paper.CURRICULUM] == [5, 5, 15, 15, 10, 10 + 9, 10 + 5 * (10 - 1)]
    assert [phase.loop.learning_rate for phase in paper.CURRICULUM] == [1e-5] * 4 + [3e-6, 1e-5, 1e-5]
    assert [phase.stage.clips for phase in paper.CURRICULUM] == [256, 128, 32, 32, 256, 64, 64]
    for phase in paper.CURRICULUM:
        if isinstance(phase.stage, AdversarialConfig):
            assert (phase.loop.optimizer, phase.loop.weight_decay) == ("rmsprop", 0.0)
            assert (phase.stage.penalty, phase.stage.perturbation) == (1000.0, 0.1)
        else:
            assert (phase.loop.optimizer, phase.loop.weight_decay, phase.stage.shift) == ("adamw", 0.01, 24.0)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    main()
    return capsys.readouterr().out


def test_the_command_ends_with_json_that_holds_every_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = (
        "--preset",
        "debug",
        "--size",
        "64x32",
        "--window",
        "5",
        "--gpus",
        "2",
        "--what-if",
        "--training",
    )
    made = json.loads(
        run(capsys, monkeypatch, *asked, "--plot", str(tmp_path / "plots" / "plan.png"), "--json")
    )
    assert (made["width_px"], made["height_px"], made["window_latents"], made["gpus"]) == (64, 32, 5, 2)
    assert made["tokens"] == 8
    assert made["step_tflop"] == pytest.approx(made["step_linear_tflop"] + made["step_attention_tflop"])
    assert len(made["what_if"]) == 5
    assert made["training"]["adapt_pflop"] == pytest.approx(4 * made["training"]["forward_pflop"])
    assert (tmp_path / "plots" / "plan.png").stat().st_size > 1000


def test_the_command_prints_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(capsys, monkeypatch, "--preset", "debug", "--what-if", "--training", "--decoder", "light")
    assert "debug, 32x32, window 4: 3 layers, 32 wide" in printed
    assert "fp8 everywhere" in printed
    assert "multiply what a mask hides" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "tetris"), tuple(PRESETS | LARGE_PRESETS)),
        (("--gpu", "abacus"), tuple(GPUS)),
        (("--preset", "debug", "--gpus", "3"), ("2 heads of debug", "choose from 1, 2")),
        (("--size", "700x100"), ("700x100 is no picture", "multiples of 16")),
        (("--size", "wide"), ("wide is no picture",)),
        (("--window", "0"), ("a window of 0 latents shows no past",)),
        (("--efficiency", "2"), ("above 0 and up to 1",)),
    ],
)
def test_the_command_refuses_with_the_choices(
    arguments: tuple[str, ...],
    said: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(capsys, monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert all(part in error for part in said)


def test_the_curriculum_is_planned_for_both_large_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = {}
    for preset in ("aapt-8b", "wan-1.3b"):
        monkeypatch.setattr(sys, "argv", ["paper", "--preset", preset, "--gpus", "8", "--json"])
        paper.main()
        made = totals[preset] = json.loads(capsys.readouterr().out)
        assert made["hours"] == pytest.approx(sum(phase["hours"] for phase in made["phases"]))
        assert made["zflop"] == pytest.approx(
            sum(phase["steps"] * phase["step_pflop"] for phase in made["phases"]) / 1e6
        )
        assert all((phase["memory_gb"] <= 72) == (phase["micro_clips"] > 0) for phase in made["phases"])
    assert totals["wan-1.3b"]["hours"] < totals["aapt-8b"]["hours"]
    # The paper's week on 256 H100 is possible, and no better than its serving.
    assert 0.15 < totals["aapt-8b"]["paper_efficiency"] < 0.5
