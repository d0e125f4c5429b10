"""What a model costs on GPUs, before anybody rents them.

    python -m aapt.plan --preset aapt-8b
    python -m aapt.plan --preset aapt-8b-720p --gpus 8 --what-if
    python -m aapt.plan --preset aapt-8b-720p --gpus 8 --decoder light --efficiency 0.23
    python -m aapt.plan --preset wan-1.3b --size 640x352 --window 8 --gpu l40s --training --json

FLOP are counted on the real modules; times are arithmetic on data sheets, not measurements.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from aapt.dit.model import PATCH
from aapt.plan.choices import choices
from aapt.plan.cost import BYTES, Hardware, plan, with_light_decoder
from aapt.plan.count import count
from aapt.plan.gpus import GPUS
from aapt.plan.table import (
    choice_numbers,
    choices_text,
    plan_numbers,
    plan_text,
    training_numbers,
    training_text,
)
from aapt.presets import LARGE_PRESETS, PRESETS, Preset
from aapt.shapes import SPATIAL_REDUCTION

ALL_PRESETS = PRESETS | LARGE_PRESETS


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    try:
        preset = _preset(options)
        hardware = Hardware(
            GPUS[options.gpu], options.gpus, options.efficiency, options.linear, options.attention
        )
        counted = count(preset)
        has_light_decoder = options.decoder == "light"
        decoding = with_light_decoder(counted) if has_light_decoder else counted
        made = plan(decoding, hardware)
    except ValueError as error:
        parser.error(str(error))
    changed = list(choices(counted, hardware, has_light_decoder=has_light_decoder)) if options.what_if else []
    if options.plot:
        from aapt.plan.plot import plot_plans  # matplotlib is needed by nobody else

        sizes = [n for n in range(1, max(8, options.gpus) + 1) if preset.dit.heads % n == 0]
        plot_plans([plan(decoding, replace(hardware, gpus=n)) for n in sizes], options.plot)
    if options.json:
        numbers: dict[str, object] = dict(plan_numbers(made))
        if changed:
            numbers["what_if"] = [choice_numbers(choice) for choice in changed]
        if options.training:
            numbers["training"] = training_numbers(counted)
        print(json.dumps(numbers))
        return
    print(plan_text(made))
    if changed:
        print("\n" + choices_text(changed, options.gpus))
    if options.training:
        print("\n" + training_text(counted))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=sorted(ALL_PRESETS), default="aapt-8b")
    parser.add_argument("--size", help="picture, such as 1280x720 (default: the preset's)")
    parser.add_argument("--window", type=int, help="past latents that a token sees (default: the preset's)")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="h100")
    parser.add_argument("--gpus", type=int, default=1, help="of one replica")
    parser.add_argument("--efficiency", type=float, default=0.5, help="share of the roofline that is reached")
    parser.add_argument("--linear", choices=sorted(BYTES), default="bf16", help="precision of linear layers")
    parser.add_argument(
        "--attention", choices=sorted(BYTES), default="bf16", help="and of attention and cache"
    )
    parser.add_argument(
        "--decoder", choices=("ours", "light"), default="ours", help="light: the paper's, by its FLOP alone"
    )
    parser.add_argument("--what-if", action="store_true", help="what lets the same GPUs hold more sessions")
    parser.add_argument("--training", action="store_true", help="what each stage multiplies for a clip")
    parser.add_argument("--plot", type=Path, help="write a picture: time by number of GPUs")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of tables")
    return parser


def _preset(options: argparse.Namespace) -> Preset:
    preset = ALL_PRESETS[options.preset]
    if options.window is not None:
        if options.window < 1:
            raise ValueError(f"a window of {options.window} latents shows no past; give 1 or more")
        preset = replace(preset, dit=replace(preset.dit, window=options.window))
    if options.size is None:
        return preset
    step = SPATIAL_REDUCTION * PATCH
    sides = options.size.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) and int(side) % step == 0 for side in sides):
        raise ValueError(f"size {options.size} is no picture; give WIDTHxHEIGHT, both multiples of {step}")
    return replace(preset, width_px=int(sides[0]), height_px=int(sides[1]))


if __name__ == "__main__":
    main()
