"""Judge a checkpoint, or any videos by the paper's measures.

The recorded world, where the game tells the truth (`road`; its drives are recorded on demand):

    python -m aapt.evals drift --seconds 60 --json --plot drift.png --sheet drift-sheet.png
    python -m aapt.evals obey --json
    python -m aapt.evals cost --json
    python -m aapt.evals regressor --data data/road --checkpoint checkpoints/road
    python -m aapt.evals results --scores docs/scores --out docs/results.md
    python -m aapt.evals curves --runs runs/codec runs/adapt runs/distill --out checkpoints/road/curves.png

The paper's tables, on folders of videos and on networks that you supply as TorchScript files:

    python -m aapt.evals fid --made out/ --true real/ --backbone inception.pt
    python -m aapt.evals fvd --made out/ --true real/ --backbone i3d.pt
    python -m aapt.evals vbench --videos out/ --backbones backbones/ --images first/
    python -m aapt.evals camera --estimated sfm/ --true cameras/ --videos out/ --backbones backbones/
    python -m aapt.evals keypoints --made out-poses/ --true poses/

--json: the last line is one line of JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch

from aapt.checkpoint import BadCheckpoint, Model, fill, load
from aapt.dit.model import DiT
from aapt.evals.backbones import MissingFile
from aapt.evals.vbench import DIMENSIONS
from aapt.parallel import multiplies_bfloat16
from aapt.worlds.clips import HELD_OUT_EPISODES, episode_paths


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    try:
        numbers = COMMANDS[options.command](options)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: this needs {error.name}; say `make .venv/developing`, or pip install 'aapt[evals]'")
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
        judged.add_argument(
            "--recycling",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="off: as the weights were trained that recycle the first picture only",
        )
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

    cost = add("cost", "what a latent costs with a recycled input, and by diffusion forcing")
    cost.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))

    results = add("results", "tables and plots of the ablations")
    results.add_argument("--scores", type=Path, default=Path("docs/scores"))
    results.add_argument("--out", type=Path, default=Path("docs/results.md"))

    curves = add("curves", "plot the curves of training runs")
    curves.add_argument("--runs", type=Path, nargs="+", required=True)
    curves.add_argument("--out", type=Path, default=Path("curves.png"))

    for name, backbone in (("fid", "Inception v3"), ("fvd", "I3D")):
        distance = add(name, f"Fréchet distance of two folders on the features of {backbone}")
        distance.add_argument("--made", type=Path, required=True)
        distance.add_argument("--true", type=Path, required=True)
        distance.add_argument(
            "--backbone", type=Path, required=True, help="TorchScript; see aapt/evals/fid.py"
        )

    vbench = add("vbench", "VBench-I2V's dimensions and the paper's aggregates")
    vbench.add_argument("--videos", type=Path, required=True)
    vbench.add_argument("--backbones", type=Path, required=True, help="see aapt/evals/vbench.py")
    vbench.add_argument("--images", type=Path, help="what the videos began with; frame 0 where left out")
    vbench.add_argument("--dimensions", nargs="+", choices=DIMENSIONS, default=DIMENSIONS, metavar="NAME")

    camera = add("camera", "errors of camera paths, and how the picture holds together")
    camera.add_argument("--estimated", type=Path, required=True, help="see aapt/evals/camera.py")
    camera.add_argument("--true", type=Path, required=True)
    camera.add_argument("--videos", type=Path, help="for Apr and Mov; needs --backbones")
    camera.add_argument("--backbones", type=Path, help="clip_b32.pt, and raft.pt for Mov")
    camera.add_argument("--masks", type=Path, help="for Mov: a folder of foreground masks a video")

    keypoints = add("keypoints", "AKD of a person that was driven by poses")
    keypoints.add_argument("--made", type=Path, required=True, help="see aapt/evals/keypoints.py")
    keypoints.add_argument("--true", type=Path, required=True)
    keypoints.add_argument("--confidence", type=float, default=0.3)
    options = parser.parse_args()
    if options.command in ("drift", "obey") and options.seconds < 2:
        parser.error("--seconds is 2 or more: a car answers its wheel with a delay")
    if options.command in ("drift", "obey") and not options.recycling and options.weights is None:
        parser.error("--no-recycling needs --weights: the checkpoint's own were trained to recycle")
    if options.command == "camera" and options.videos and not options.backbones:
        parser.error("camera --videos needs --backbones")
    return options


def _model(options: argparse.Namespace) -> Model:
    model = load(options.checkpoint)
    if not options.recycling:
        model.dit = DiT(replace(model.dit.config, recycles=False)).eval()
    if options.weights is not None:
        if not options.weights.is_file():
            raise MissingFile(f"{options.weights} is missing; name the weights.pt of a run")
        try:
            weights = torch.load(options.weights, weights_only=True)
        except Exception as error:  # torch has many ways to say that a file is damaged
            raise BadCheckpoint(
                f"{options.weights} cannot be read ({error}); name a run's weights.pt"
            ) from None
        fill(model.dit, weights, options.weights)
    return model


def _drift(options: argparse.Namespace) -> dict[str, object]:
    from aapt.evals.departure import judge, summary
    from aapt.evals.diffusion import play_diffusion
    from aapt.evals.drift import play
    from aapt.evals.drives import find_drives
    from aapt.evals.motion import OTHER_POSES, load_regressor
    from aapt.evals.report import draw_sheet, sentence, table

    if options.plot:
        from aapt.evals.curves import plot_departure  # before the work, in case matplotlib is not there
    model = _model(options)
    if model.preset.name in OTHER_POSES:
        raise ValueError(f"the motion of {model.preset.name} cannot be read yet; road's can")
    regressor, error = load_regressor(options.checkpoint)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    dream = partial(play, model, seed=options.seed, shows_progress=True)
    if options.steps > 1:
        dream = partial(play_diffusion, model, seed=options.seed, steps=options.steps, shift=options.shift)
    judgement = judge(model, regressor, paths, options.seconds, dream)
    numbers = summary(judgement, error)
    print(table(judgement.departure))
    print(sentence(numbers))
    if options.plot:
        plot_departure(judgement.departure, numbers, options.plot)
    if options.sheet:
        draw_sheet(judgement, options.sheet)
    rows = judgement.departure.rows()
    return {**numbers, "per_second": {name: [_rounded(row[name]) for row in rows] for name in rows[0]}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _obey(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.drives import encode_drives, find_drives, latents_in
    from aapt.evals.obey import game_turns, measure_obedience

    model = _model(options)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    batch = encode_drives(model, paths, latents_in(model.preset, options.seconds))
    told = game_turns() if model.preset.name == "road" and find_spec("pygame") else {}
    return _shown(measure_obedience(model, batch, options.seed) | told)


def _regressor(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.motion import FILE, save_regressor
    from aapt.evals.motion_training import train_regressor

    paths = episode_paths(options.data)
    if len(paths) <= HELD_OUT_EPISODES:
        raise MissingFile(
            f"{options.data} holds {len(paths)} recordings, and {HELD_OUT_EPISODES} are held out; record more"
        )
    regressor, error = train_regressor(
        paths[:-HELD_OUT_EPISODES],
        paths[-HELD_OUT_EPISODES:],
        options.steps,
        options.seed,
        bfloat16=multiplies_bfloat16(),
    )
    save_regressor(regressor, error, options.checkpoint / FILE)
    return _shown({"rotation_error_deg": error.rotation_deg, "translation_error_m": error.translation_m})


def _cost(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.cost import measure_cost

    return _shown(measure_cost(load(options.checkpoint)))


def _results(options: argparse.Namespace) -> dict[str, str]:
    from aapt.evals.results import write_results

    write_results(options.scores, options.out)
    return {"out": str(options.out)}


def _curves(options: argparse.Namespace) -> dict[str, str]:
    from aapt.evals.curves import plot_curves

    plot_curves(options.runs, options.out)
    return {"out": str(options.out)}


def _fid(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.fid import fid, fvd

    measure = fid if options.command == "fid" else fvd
    return _shown(measure(options.made, options.true, options.backbone))


def _vbench(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.vbench import Backbones, measure
    from aapt.evals.videos import find_videos

    videos = find_videos(options.videos)
    return _shown(measure(videos, Backbones(options.backbones), options.dimensions, options.images))


def _camera(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.camera import measure_paths, measure_pictures
    from aapt.evals.vbench import Backbones

    scores = measure_paths(options.estimated, options.true)
    if options.videos:
        scores |= measure_pictures(options.videos, Backbones(options.backbones), options.masks)
    return _shown({name: round(value, 4) for name, value in scores.items()})


def _keypoints(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.keypoints import measure_keypoints

    return _shown(measure_keypoints(options.made, options.true, options.confidence))


def _shown(numbers: dict[str, float]) -> dict[str, float]:
    for name, value in numbers.items():
        print(f"{name:<32} {value:g}")
    return numbers


COMMANDS: dict[str, Callable[[argparse.Namespace], Mapping[str, object]]] = {
    "drift": _drift,
    "obey": _obey,
    "regressor": _regressor,
    "cost": _cost,
    "results": _results,
    "curves": _curves,
    "fid": _fid,
    "fvd": _fid,
    "vbench": _vbench,
    "camera": _camera,
    "keypoints": _keypoints,
}

if __name__ == "__main__":
    main()
