"""Judge a checkpoint, or any videos by the paper's measures.

The recorded world, where the game tells the truth (`road`; its drives are recorded on demand):

    python -m aapt.evals drift --seconds 60 --json --plot drift.png --sheet drift-sheet.png
    python -m aapt.evals obey --json
    python -m aapt.evals regressor --data data/road --checkpoint checkpoints/road
    python -m aapt.evals curves --runs runs/codec runs/adapt runs/distill --out checkpoints/road/curves.png

--json: the last line is one line of JSON.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch

from aapt.checkpoint import BadCheckpoint, Model, load
from aapt.worlds.clips import episode_paths

HELD_OUT_EPISODES = 8


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        numbers = COMMANDS[options.command](options)
    except (BadCheckpoint, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(numbers))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.evals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, meaning: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=meaning)
        command.add_argument("--json", action="store_true", help="end with one line of JSON")
        command.add_argument("--threads", type=int, default=1)
        return command

    drift = add("drift", "free rollouts against what the game shows for the same keys")
    obey = add("obey", "what the keys change")
    for judged, seconds in ((drift, 60.0), (obey, 10.0)):
        judged.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
        judged.add_argument("--weights", type=Path, help="weights.pt of a run, instead of the checkpoint's")
        judged.add_argument("--data", type=Path, help="recordings to judge on, instead of fresh ones")
        judged.add_argument("--clips", type=int, default=8, help="how many drives")
        judged.add_argument("--seconds", type=float, default=seconds)
        judged.add_argument("--seed", type=int, default=0, help="of the noise")
    drift.add_argument("--steps", type=int, default=1, help="Euler steps a latent; 2 or more: diffusion")
    drift.add_argument("--shift", type=float, default=3.0, help="of the time grid of diffusion")
    drift.add_argument("--plot", type=Path, help="write curves by the second")
    drift.add_argument("--sheet", type=Path, help="write pictures: the truth above, the dream below")

    regressor = add("regressor", "train the network that reads the camera's motion off the frames")
    regressor.add_argument("--data", type=Path, default=Path("data/road"), help="the last 8 are held out")
    regressor.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"), help="where it goes")
    regressor.add_argument("--steps", type=int, default=1500)
    regressor.add_argument("--seed", type=int, default=0)

    curves = add("curves", "plot the curves of training runs")
    curves.add_argument("--runs", type=Path, nargs="+", required=True)
    curves.add_argument("--out", type=Path, default=Path("curves.png"))
    return parser.parse_args()


def _model(options: argparse.Namespace) -> Model:
    model = load(options.checkpoint)
    if options.weights is not None:
        try:
            model.dit.load_state_dict(torch.load(options.weights, weights_only=True))
        except RuntimeError as error:
            raise BadCheckpoint(f"{options.weights} does not fit {options.checkpoint}: {error}") from None
    return model


def _drift(options: argparse.Namespace) -> dict[str, object]:
    from aapt.evals.departure import judge, summary
    from aapt.evals.diffusion import play_diffusion
    from aapt.evals.drift import play
    from aapt.evals.drives import find_drives
    from aapt.evals.motion import load_regressor
    from aapt.evals.report import draw_plot, draw_sheet, sentence, table

    model = _model(options)
    regressor, error = load_regressor(options.checkpoint)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    dream = partial(play, model, seed=options.seed)
    if options.steps > 1:
        dream = partial(play_diffusion, model, seed=options.seed, steps=options.steps, shift=options.shift)
    judgement = judge(model, regressor, paths, options.seconds, dream)
    numbers = summary(judgement, error)
    print(table(judgement.departure))
    print(sentence(numbers))
    if options.plot:
        draw_plot(judgement.departure, numbers, options.plot)
    if options.sheet:
        draw_sheet(judgement, options.sheet)
    rows = judgement.departure.rows()
    return {**numbers, "per_second": {name: [_rounded(row[name]) for row in rows] for name in rows[0]}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _obey(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.drives import encode_drives, find_drives, latents_in
    from aapt.evals.obey import measure_obedience

    model = _model(options)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    batch = encode_drives(model, paths, latents_in(model.preset, options.seconds))
    numbers = measure_obedience(model, batch, options.seed)
    _show(numbers)
    return numbers


def _regressor(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.motion import FILE, save_regressor
    from aapt.evals.motion_training import train_regressor

    paths = episode_paths(options.data)
    regressor, error = train_regressor(
        paths[:-HELD_OUT_EPISODES],
        paths[-HELD_OUT_EPISODES:],
        options.steps,
        options.seed,
        bfloat16=bool(torch.cpu.get_capabilities().get("amx_bf16", False)),
    )
    save_regressor(regressor, error, options.checkpoint / FILE)
    numbers = {"rotation_error_deg": error.rotation_deg, "translation_error_m": error.translation_m}
    _show(numbers)
    return numbers


def _curves(options: argparse.Namespace) -> dict[str, str]:
    from aapt.evals.curves import plot_curves  # matplotlib is needed by nobody else

    plot_curves(options.runs, options.out)
    return {"out": str(options.out)}


def _show(numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        print(f"{name:<32} {value:g}")


COMMANDS = {"drift": _drift, "obey": _obey, "regressor": _regressor, "curves": _curves}

if __name__ == "__main__":
    main()
