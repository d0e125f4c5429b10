"""Judge a checkpoint.

    python -m aapt.evals drift  --checkpoint checkpoints/road --data data/road --sheet docs/rollout.png
    python -m aapt.evals obey   --checkpoint checkpoints/road --data data/road
    python -m aapt.evals curves --runs runs/codec runs/adapt runs/distill --out checkpoints/road/curves.png

`drift` plays held-out recordings under their own keys; `obey` asks what other keys change. Both end with one
line of JSON.
"""

import argparse
import json
from pathlib import Path

import torch

from aapt.checkpoint import load
from aapt.evals.drift import measure_drift
from aapt.evals.obey import measure_obedience
from aapt.worlds.clips import episode_paths
from aapt.worlds.latents import Clips, encode_episode

HELD_OUT_EPISODES = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.evals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drift = commands.add_parser("drift", help="free rollouts against what really happened")
    obey = commands.add_parser("obey", help="what the keys change")
    for judged in (drift, obey):
        judged.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
        judged.add_argument(
            "--data", type=Path, required=True, help="folder of recordings; the last 8 are judged"
        )
        judged.add_argument("--seconds", type=float, default=10.0)
    drift.add_argument(
        "--sheet", type=Path, help="write a picture: what happened above, what was dreamt below"
    )
    curves = commands.add_parser("curves", help="plot the curves of training runs")
    curves.add_argument("--runs", type=Path, nargs="+", required=True)
    curves.add_argument("--out", type=Path, default=Path("curves.png"))
    options = parser.parse_args()
    if options.command == "curves":
        from aapt.evals.curves import plot_curves  # matplotlib is needed by nobody else

        plot_curves(options.runs, options.out)
        return
    torch.set_num_threads(1)
    model = load(options.checkpoint)
    paths = episode_paths(options.data)[-HELD_OUT_EPISODES:]
    clips = Clips([encode_episode(model.vae, path) for path in paths], model.text)
    length = round(options.seconds * model.preset.frames_per_second / 4)
    batch = clips.pick([(i, 3) for i in range(len(paths))], length)
    if options.command == "obey":
        print(json.dumps(measure_obedience(model, batch)))
    else:
        print(json.dumps(measure_drift(model, batch, options.sheet)))


if __name__ == "__main__":
    main()
