"""A plan as text, and as flat numbers for JSON."""

from collections.abc import Iterable

from aapt.dit.attention import is_masked
from aapt.plan.choices import Choice, Division
from aapt.plan.cost import Plan
from aapt.plan.count import Count
from aapt.plan.training import adapt_flop, adversarial_flop, distill_flop, forward_flop
from aapt.shapes import FRAMES_PER_LATENT

CLIP_LATENTS = 60  # ten seconds at 24 frames/s


def plan_numbers(made: Plan) -> dict[str, float | int | str]:
    """Everything of a plan that is a figure, by names that end in their unit."""
    count, hardware, roofline, stated = made.count, made.hardware, made.roofline, made.stated
    preset = count.preset
    return {
        "preset": preset.name,
        "width_px": preset.width_px,
        "height_px": preset.height_px,
        "window_latents": preset.dit.window,
        "gpu": hardware.gpu.name,
        "gpus": hardware.gpus,
        "efficiency": hardware.efficiency,
        "linear": hardware.linear,
        "attention": hardware.attention,
        "tokens": count.tokens,
        "step_tflop": count.step.flop / 1e12,
        "step_linear_tflop": count.step.linear_flop / 1e12,
        "step_attention_tflop": count.step.attention_flop / 1e12,
        "text_tflop": count.text.flop / 1e12,
        "encode_tflop": count.encode.flop / 1e12,
        "decode_tflop": count.decode.flop / 1e12,
        "collectives": made.collectives,
        "collective_mb": made.collective_bytes / 1e6,
        "weights_gb": made.weights_bytes / 1e9,
        "cache_gb": made.cache_bytes / 1e9,
        "roofline_compute_ms": 1e3 * roofline.compute_s,
        "roofline_memory_ms": 1e3 * roofline.memory_s,
        "roofline_collectives_ms": 1e3 * roofline.collectives_s,
        "roofline_decode_ms": 1e3 * roofline.decode_s,
        "roofline_step_ms": 1e3 * roofline.step_s,
        "compute_ms": 1e3 * stated.compute_s,
        "memory_ms": 1e3 * stated.memory_s,
        "collectives_ms": 1e3 * stated.collectives_s,
        "decode_ms": 1e3 * stated.decode_s,
        "step_ms": 1e3 * stated.step_s,
        "prompt_ms": 1e3 * made.prompt_s,
        "encode_ms": 1e3 * made.encode_s,
        "serial_ms": 1e3 * stated.serial_s,
        "serial_frames_per_s": FRAMES_PER_LATENT / stated.serial_s,
        "pipelined_ms": 1e3 * stated.pipelined_s,
        "pipelined_frames_per_s": FRAMES_PER_LATENT / stated.pipelined_s,
        "period_ms": 1e3 * made.period_s,
        "limit": stated.limit,
        "sessions_in_memory": made.sessions_in_memory,
        "serial_sessions": made.sessions(is_pipelined=False),
        "pipelined_sessions": made.sessions(is_pipelined=True),
    }


def plan_text(made: Plan) -> str:
    """A plan as a table: what is done, how long it takes, what it holds."""
    count, hardware, roofline, stated = made.count, made.hardware, made.roofline, made.stated
    preset, step = count.preset, count.step
    keys = (preset.dit.window + 2) * count.tokens
    split = f" (Ulysses-{hardware.gpus})" if hardware.gpus > 1 else ""
    taken = [
        ("DiT, compute", roofline.compute_s, stated.compute_s),
        ("DiT, memory", roofline.memory_s, stated.memory_s),
        ("collectives", roofline.collectives_s, stated.collectives_s),
        ("step", roofline.step_s, stated.step_s),
        ("decode", roofline.decode_s, stated.decode_s),
        ("step, then decode", roofline.serial_s, stated.serial_s),
        ("step beside decode", roofline.pipelined_s, stated.pipelined_s),
    ]
    lines = [
        f"{preset.name}, {preset.width_px}x{preset.height_px}, window {preset.dit.window}:"
        f" {preset.dit.layers} layers, {preset.dit.dim} wide, {count.dit_weights / 1e9:.3g} B parameters",
        f"{hardware.gpus} x {hardware.gpu.name}{split}, linear {hardware.linear}, attention and cache"
        f" {hardware.attention}, efficiency {hardware.efficiency:g}",
        "",
        f"a latent          {count.tokens} tokens see {keys} and {preset.dit.text_tokens} of text",
        f"step              {_tflop(step.flop)}: linear {_tflop(step.linear_flop)},"
        f" attention {_tflop(step.attention_flop)}; {step.weights / 1e9:.3g} B parameters read",
        f"decode            {_tflop(count.decode.flop)}",
        f"once a prompt     {_tflop(count.text.flop)}, {1e3 * made.prompt_s:.2g} ms",
        f"once a session    {_tflop(count.encode.flop)} to encode its picture, {1e3 * made.encode_s:.2g} ms",
        f"collectives       {made.collectives} a step, {made.collective_bytes / 1e6:.0f} MB sent by each GPU",
        f"memory of a GPU   weights {made.weights_bytes / 1e9:.3g} GB, a session's cache"
        f" {made.cache_bytes / 1e9:.3g} GB, of {hardware.gpu.memory_bytes / 1e9:.0f} GB",
        "",
        f"{'ms a latent':<22}{'roofline':>12}{'at ' + format(hardware.efficiency, '.0%'):>12}",
        *(f"{name:<22}{1e3 * best:>12.4g}{1e3 * real:>12.4g}" for name, best, real in taken),
        f"{'frames/s, serial':<22}{FRAMES_PER_LATENT / roofline.serial_s:>12.1f}"
        f"{FRAMES_PER_LATENT / stated.serial_s:>12.1f}",
        f"{'frames/s, pipelined':<22}{FRAMES_PER_LATENT / roofline.pipelined_s:>12.1f}"
        f"{FRAMES_PER_LATENT / stated.pipelined_s:>12.1f}",
        "",
        f"{stated.limit} takes longest. A session gains a latent in every {1e3 * made.period_s:.1f} ms:"
        f" {made.sessions(is_pipelined=False)} sessions a replica with decode in turn,",
        f"{made.sessions(is_pipelined=True)} with decode on another GPU; memory has room for"
        f" {made.sessions_in_memory}.",
    ]
    return "\n".join(lines)


def choice_numbers(choice: Choice) -> dict[str, float | int | str]:
    """One line of the table of choices."""
    serial, pipelined = choice.best(is_pipelined=False), choice.best(is_pipelined=True)
    return {
        "change": choice.change,
        "step_ms": 1e3 * choice.as_one.stated.step_s,
        "decode_ms": 1e3 * choice.as_one.stated.decode_s,
        "serial_sessions": choice.as_one.sessions(is_pipelined=False),
        "pipelined_sessions": choice.as_one.sessions(is_pipelined=True),
        "best_serial_sessions": serial.sessions,
        "best_serial_gpus_each": serial.gpus_each,
        "best_pipelined_sessions": pipelined.sessions,
        "best_pipelined_gpus_each": pipelined.gpus_each,
    }


def choices_text(made: Iterable[Choice], gpus: int) -> str:
    """Sessions of all GPUs together, for each change alone."""
    one = f"one replica of {gpus}"
    lines = [
        f"{'':<20}{'ms a latent':>15}{one:>24}{'best division':>34}",
        f"{'':<20}{'step':>8}{'decode':>8}{'in turn':>12}{'beside':>11}{'in turn':>17}{'beside':>17}",
    ]
    for choice in made:
        plan, best = choice.as_one, [choice.best(is_pipelined=beside) for beside in (False, True)]
        lines.append(
            f"{choice.change:<20}{1e3 * plan.stated.step_s:>8.1f}{1e3 * plan.stated.decode_s:>8.1f}"
            f"{plan.sessions(is_pipelined=False):>12}{plan.sessions(is_pipelined=True):>11}"
            f"{_division(best[0]):>17}{_division(best[1]):>17}"
        )
    lines.append(
        "Sessions in real time. In turn: the replica decodes, too. Beside: each replica has a GPU more"
    )
    lines.append("that decodes. 5 (1 x 8) is five sessions on one replica of eight GPUs.")
    return "\n".join(lines)


def training_numbers(count: Count) -> dict[str, float]:
    """PFLOP for one clip of ten seconds, by what is done with it."""
    return {
        "forward_pflop": forward_flop(count, CLIP_LATENTS) / 1e15,
        "adapt_pflop": adapt_flop(count, CLIP_LATENTS) / 1e15,
        "distill_pflop": distill_flop(count, CLIP_LATENTS) / 1e15,
        "adversarial_pflop": adversarial_flop(count, CLIP_LATENTS) / 1e15,
    }


def training_text(count: Count) -> str:
    """The same as a table."""
    lines = [f"{'PFLOP, 10 s clip':<20}"]
    lines += [
        f"{name.removesuffix('_pflop'):<20}{pflop:>14.4g}" for name, pflop in training_numbers(count).items()
    ]
    if is_masked(count.tokens):
        lines.append("Passes over clips multiply what a mask hides: latents are small.")
    return "\n".join(lines)


def _tflop(flop: int) -> str:
    return f"{flop / 1e12:.4g} TFLOP"


def _division(division: Division) -> str:
    return f"{division.sessions} ({division.replicas} x {division.gpus_each})"
