"""Judge a checkpoint, or any videos by the paper's measures.

The recorded world, where the game tells the truth (`road`; its drives are recorded on demand):

    python -m aapt.evals drift --seconds 60 --json --plot drift.png --sheet drift-sheet.png
    python -m aapt.evals drive --seconds 60 --json --sheet driven.png
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
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads slow others down

import torch

from aapt.evals.commands import COMMANDS
from aapt.evals.vbench import DIMENSIONS


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
    drive = add("drive", "driven by one who sees the dream only, against the game driven so")
    for judged, seconds in ((drift, 60.0), (obey, 10.0), (drive, 60.0)):
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
    drift.add_argument(
        "--elsewhere",
        action="store_true",
        help="instead of a dream, what the game shows under these keys on other tracks",
    )
    drift.add_argument("--plot", type=Path, help="write curves by the second")
    drift.add_argument("--sheet", type=Path, help="write pictures: the truth above, the dream below")

    drive.add_argument("--sheet", type=Path, help="write pictures: a row a drive, the game's below")

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
    judges_road = options.command in ("drift", "obey", "drive")
    if judges_road and options.seconds < 2:
        parser.error("--seconds is 2 or more: a car answers its wheel with a delay")
    if judges_road and not options.recycling and options.weights is None:
        parser.error("--no-recycling needs --weights: the checkpoint's own were trained to recycle")
    for name in ("threads", "clips", "steps"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; choose 1 or more")
    if not getattr(options, "shift", 1.0) > 0:
        parser.error(f"--shift is {options.shift}; choose more than 0")
    if options.command == "camera" and options.videos and not options.backbones:
        parser.error("camera --videos needs --backbones")
    return options


if __name__ == "__main__":
    main()
