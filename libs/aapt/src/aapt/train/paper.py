"""The paper's own curriculum (appendix B), as the configs that our stages take, and what it costs.

    python -m aapt.train.paper
    python -m aapt.train.paper --preset wan-1.3b --gpus 8 --json

Nothing is trained: the cost model counts what each phase would multiply, and what our loop would hold.
"""

import argparse
import json
import math

from aapt.plan.cost import USABLE_MEMORY
from aapt.plan.gpus import GPUS
from aapt.presets import AAPT_8B, WAN_1_3B
from aapt.shapes import FRAMES_PER_LATENT
from aapt.train.adapt import AdaptConfig
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import DistillConfig
from aapt.train.loop import LoopConfig
from aapt.train.phase import FRAMES_PER_SECOND, Phase, PhaseCost, phase_cost

PAPER_GPUS, PAPER_DAYS = 256, 7  # H100; "about 7 days"


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
    costs = [phase_cost(phase, presets[options.preset], options.gpus, gpu) for phase in CURRICULUM]
    hours = [cost.hours(gpu, options.gpus, options.efficiency) for cost in costs]
    rows = [_numbers(*each) for each in zip(costs, hours, strict=True)]
    flop = sum(cost.phase.loop.steps * cost.flop for cost in costs)
    total = {
        "preset": options.preset,
        "gpu": gpu.name,
        "gpus": options.gpus,
        "efficiency": options.efficiency,
        "zflop": flop / 1e21,
        "hours": sum(hours),
        "gpu_gb": gpu.memory_bytes / 1e9,
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
        "hours": hours,
        "row_clips": cost.row_clips,
        "micro_clips": cost.micro_clips,
        "memory_gb": cost.memory_bytes / 1e9,
        "fitting_gpus": cost.fitting_gpus,
        "unstated": phase.unstated,
    }


def _text(total: dict[str, object], rows: list[dict[str, float | int | str]]) -> str:
    columns = "{:<21}{:>7}{:>7}{:>6}{:>9}{:>8}{:>9}{:>11}{:>9}{:>9}{:>7}{:>8}{:>9}"
    heads = ("", "steps", "clips", "s", "", "rate", "latents", "PFLOP", "hours")
    lines = [
        "{preset} on {gpus} x {gpu} at {efficiency:.0%} of their peak".format_map(total),
        columns.format(*heads, "of a row", "micro", "GB", "fits on"),
    ]
    for row in rows:
        figures = (row[name] for name in ("step_pflop", "hours"))
        lines.append(
            columns.format(
                *(row[name] for name in ("phase", "steps", "clips")),
                f"{row['clip_s']:.0f}",
                *(row[name] for name in ("optimizer", "learning_rate", "latents")),
                *(f"{figure:,.1f}" for figure in figures),
                row["row_clips"],
                row["micro_clips"] or "none",
                f"{row['memory_gb']:,.1f}",
                row["fitting_gpus"] or "none",
            )
        )
    lines += [
        "PFLOP: of a step",
        f"micro: clips of a row that fit {USABLE_MEMORY:.0%} of {total['gpu_gb']:.0f} GB at once"
        " (--micro-clips); GB: what each GPU holds then, with one clip where none fits; fits on: GPUs",
    ]
    if total["preset"] != AAPT_8B.name:
        lines.append("every phase in the preset's own picture, whatever the paper's sizes")
    lines += [f"not stated for {row['phase']!r}: {row['unstated']}" for row in rows if row["unstated"]]
    lines.append("all: {zflop:.1f} ZFLOP, {hours:,.0f} hours".format_map(total))
    if "paper_efficiency" in total:
        lines.append(
            f"the paper took about {PAPER_DAYS} days ({24 * PAPER_DAYS} hours) on {PAPER_GPUS} H100: this"
            f" would be {total['paper_efficiency']:.0%} of their peak"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
