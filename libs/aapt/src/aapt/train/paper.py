"""The paper's own curriculum (appendix B), as the configs that our stages take, and what it costs.

    python -m aapt.train.paper
    python -m aapt.train.paper --preset wan-1.3b --gpus 8 --json

Nothing is trained: the cost model counts what each phase would multiply.
"""

import argparse
import json
import math
from dataclasses import dataclass

from aapt.plan.cost import BYTES
from aapt.plan.count import Count, count, count_heads
from aapt.plan.gpus import GPU, GPUS
from aapt.plan.training import adapt_flop, adversarial_flop, distill_flop
from aapt.presets import AAPT_8B, AAPT_8B_720P, WAN_1_3B, Preset
from aapt.shapes import FRAMES_PER_LATENT
from aapt.train.adapt import AdaptConfig
from aapt.train.adversarial import AdversarialConfig
from aapt.train.distill import DistillConfig
from aapt.train.loop import LoopConfig

FRAMES_PER_SECOND = 24
PAPER_GPUS, PAPER_DAYS = 256, 7  # H100; "about 7 days"
CLIP_GPUS = 8  # a clip lies on as many, by Ulysses


@dataclass(frozen=True)
class Phase:
    """One phase.

    sizes: pictures, each with an equal share of the clips. unstated: what the paper leaves open, and what is
    taken for it.
    """

    name: str
    stage: AdaptConfig | DistillConfig | AdversarialConfig
    loop: LoopConfig
    sizes: tuple[tuple[int, int], ...]
    unstated: str = ""

    @property
    def latents(self) -> int:
        """Latents of a clip, extensions and all."""
        if isinstance(self.stage, AdversarialConfig):
            return self.stage.length + self.stage.extensions * (self.stage.length - self.stage.overlap)
        return self.stage.length

    @property
    def clip_s(self) -> float:
        """The length of a clip."""
        return self.latents * FRAMES_PER_LATENT / FRAMES_PER_SECOND


def _latents(clip_s: int) -> int:
    return clip_s * FRAMES_PER_SECOND // FRAMES_PER_LATENT


def _adapt(clips: int, clip_s: int) -> AdaptConfig:
    return AdaptConfig(clips=clips, length=_latents(clip_s), shift=24.0, pure_noise=0.0)


def _adversarial(clips: int, extensions: int) -> AdversarialConfig:
    return AdversarialConfig(
        clips=clips,
        length=_latents(10),
        extensions=extensions,
        overlap=_latents(1),
        penalty=1000.0,
        perturbation=0.1,
    )


def _loop(steps: int, learning_rate: float) -> LoopConfig:
    # No other course of the learning rate is stated than that it stays.
    return LoopConfig(steps, learning_rate, warmup_steps=0, final_rate=1.0, weight_decay=0.01, bfloat16=True)


def _adversarial_loop(steps: int, learning_rate: float) -> LoopConfig:
    # As in APT (arXiv:2501.08316): neither decay nor clipping, a moving average of 0.995.
    return LoopConfig(
        steps,
        learning_rate,
        warmup_steps=0,
        final_rate=1.0,
        weight_decay=0.0,
        clip_norm=math.inf,
        ema_decay=0.995,
        bfloat16=True,
        optimizer="rmsprop",
    )


SMALL, LARGE = (736, 416), (1280, 720)

CURRICULUM = (
    Phase("adapt", _adapt(256, 5), _loop(20_000, 1e-5), (SMALL,)),
    Phase(
        "adapt, both sizes",
        _adapt(128, 5),
        _loop(6_000, 1e-5),
        (SMALL, LARGE),
        "the share of each size: half and half",
    ),
    Phase("adapt, long", _adapt(32, 15), _loop(4_000, 1e-5), (SMALL,), "clips of up to 15 s: all of 15 s"),
    Phase(
        "distill",
        DistillConfig(clips=32, length=_latents(15), grid_steps=32, shift=24.0),
        _loop(5_000, 1e-5),
        (SMALL,),
        "data of the last phase: its clips and batch",
    ),
    Phase(
        "adversarial",
        _adversarial(256, 0),
        _adversarial_loop(500, 3e-6),
        (SMALL,),
        "clips of 5 to 10 s: all of 10 s",
    ),
    Phase("adversarial, 1 more", _adversarial(64, 1), _adversarial_loop(500, 1e-5), (SMALL,)),
    Phase(
        "adversarial, 5 more",
        _adversarial(64, 5),
        _adversarial_loop(500, 1e-5),
        (SMALL,),
        "the number of updates: as before",
    ),
)


@dataclass(frozen=True)
class PhaseCost:
    """What a phase costs; memory is that of one GPU.

    flop: of a step, with attention to what is seen. masked_flop: as our parallel passes do it, which multiply
    what the mask hides.
    """

    phase: Phase
    latents: int  # made or seen in a step
    flop: float
    masked_flop: float
    memory_bytes: float

    def hours(self, gpu: GPU, gpus: int, efficiency: float) -> float:
        """The whole phase, attention to what is seen."""
        return self.phase.loop.steps * self.flop / (gpus * gpu.bf16_flop_per_s * efficiency) / 3600


def phase_cost(phase: Phase, preset: Preset, gpus: int) -> PhaseCost:
    """Cost of `phase` for `preset` on `gpus` GPUs; a preset that is not the paper's keeps to its own
    picture."""
    presets = [preset]
    if preset == AAPT_8B:
        presets = [p for p in (AAPT_8B, AAPT_8B_720P) if (p.width_px, p.height_px) in phase.sizes]
    counts = [count(each) for each in presets]
    clips = phase.stage.clips
    return PhaseCost(
        phase=phase,
        latents=clips * phase.latents,
        flop=clips * sum(_clip_flop(phase, each) for each in counts) / len(counts),
        masked_flop=clips * sum(_clip_flop(phase, each, is_masked=True) for each in counts) / len(counts),
        memory_bytes=max(_memory_bytes(phase, each, gpus) for each in counts),
    )


def _clip_flop(phase: Phase, counted: Count, *, is_masked: bool = False) -> float:
    stage = phase.stage
    if isinstance(stage, AdversarialConfig):
        return adversarial_flop(counted, stage.length, stage.extensions, stage.overlap, is_masked=is_masked)
    flop = adapt_flop if isinstance(stage, AdaptConfig) else distill_flop
    return flop(counted, stage.length, is_masked=is_masked)


def _memory_bytes(phase: Phase, counted: Count, gpus: int) -> float:
    """Weights, gradients, optimizer and moving average in shards over all GPUs, and what a clip leaves.

    A clip leaves the input of every block, since blocks are checkpointed. In stage 3 the generator's weights
    stay gathered (ZeRO-2), its cache and the copy of it that each extension learns on are there, and the
    discriminator looks at four clips at once.
    """
    stage, config = phase.stage, counted.preset.dit
    sharded = max(n for n in range(1, CLIP_GPUS + 1) if gpus % n == 0 and config.heads % n == 0)
    weight, master, moment = BYTES["bf16"], 4, 4
    moments = 1 if phase.loop.optimizer == "rmsprop" else 2
    learns = 2 * weight + master + moments * moment
    inputs = weight * config.layers * config.dim * counted.tokens * stage.length / sharded
    state = counted.dit_weights * (learns + master) / gpus
    if isinstance(stage, AdversarialConfig):
        judge = counted.dit_weights + count_heads(counted.preset).weights
        past = (1 + stage.extensions) * weight * counted.cache / sharded
        return state + weight * counted.dit_weights + judge * learns / gpus + past + 4 * inputs
    teacher = weight * counted.dit_weights / gpus if isinstance(stage, DistillConfig) else 0.0
    return state + teacher + inputs


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.train.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    presets = {preset.name: preset for preset in (AAPT_8B, WAN_1_3B)}
    parser.add_argument("--preset", choices=sorted(presets), default=AAPT_8B.name)
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--gpus", type=int, default=PAPER_GPUS)
    parser.add_argument("--efficiency", type=float, default=0.4, help="share of the GPUs' peak rate")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    options = parser.parse_args()
    if options.gpus < 1 or not 0 < options.efficiency <= 1:
        parser.error("give 1 GPU or more, and an efficiency above 0 and up to 1")
    gpu = GPUS[options.gpu]
    costs = [phase_cost(phase, presets[options.preset], options.gpus) for phase in CURRICULUM]
    rows = [_numbers(cost, cost.hours(gpu, options.gpus, options.efficiency)) for cost in costs]
    flop = sum(cost.phase.loop.steps * cost.flop for cost in costs)
    masked = sum(cost.phase.loop.steps * cost.masked_flop for cost in costs)
    total = {
        "preset": options.preset,
        "gpu": gpu.name,
        "gpus": options.gpus,
        "efficiency": options.efficiency,
        "zflop": flop / 1e21,
        "masked_zflop": masked / 1e21,
        "hours": sum(cost.hours(gpu, options.gpus, options.efficiency) for cost in costs),
        # Text encoder, codec, judging, restarts and clips that were shorter are not counted.
        "paper_efficiency": flop / (PAPER_GPUS * GPUS["h100"].bf16_flop_per_s * PAPER_DAYS * 86_400),
    }
    if options.preset != AAPT_8B.name:
        del total["paper_efficiency"]
    print(json.dumps(total | {"phases": rows}) if options.json else _text(total, rows))


def _numbers(cost: PhaseCost, hours: float) -> dict[str, float | int | str]:
    phase = cost.phase
    return {
        "phase": phase.name,
        "steps": phase.loop.steps,
        "clips": phase.stage.clips,
        "clip_s": phase.clip_s,
        "optimizer": phase.loop.optimizer,
        "learning_rate": phase.loop.learning_rate,
        "latents": cost.latents,
        "step_pflop": cost.flop / 1e15,
        "masked_step_pflop": cost.masked_flop / 1e15,
        "hours": hours,
        "memory_gb": cost.memory_bytes / 1e9,
        "unstated": phase.unstated,
    }


def _text(total: dict[str, object], rows: list[dict[str, float | int | str]]) -> str:
    columns = "{:<21}{:>7}{:>7}{:>6}{:>9}{:>8}{:>9}{:>11}{:>11}{:>9}{:>8}"
    heads = ("", "steps", "clips", "s", "", "rate", "latents", "PFLOP", "masked", "hours", "GB")
    lines = [
        "{preset} on {gpus} x {gpu} at {efficiency:.0%} of their peak".format_map(total),
        columns.format(*heads),
    ]
    for row in rows:
        figures = (row["step_pflop"], row["masked_step_pflop"], row["hours"], row["memory_gb"])
        lines.append(
            columns.format(
                *(row[name] for name in ("phase", "steps", "clips")),
                f"{row['clip_s']:.0f}",
                *(row[name] for name in ("optimizer", "learning_rate", "latents")),
                *(f"{figure:,.1f}" for figure in figures),
            )
        )
    lines.append(
        "PFLOP of a step, attending to what is seen, or to all that a mask then hides; GB on each GPU"
    )
    if total["preset"] != AAPT_8B.name:
        lines.append("every phase in the preset's own picture, whatever the paper's sizes")
    lines += [f"not stated for {row['phase']!r}: {row['unstated']}" for row in rows if row["unstated"]]
    lines.append(
        "all: {zflop:.1f} ZFLOP, {hours:,.0f} hours; {masked_zflop:.1f} ZFLOP by masked passes".format_map(
            total
        )
    )
    if "paper_efficiency" in total:
        lines.append(
            f"the paper took about {PAPER_DAYS} days ({24 * PAPER_DAYS} hours) on {PAPER_GPUS} H100: this"
            f" would be {total['paper_efficiency']:.0%} of their peak"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
