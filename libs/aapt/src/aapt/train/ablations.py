"""The ablations: every run of the table, trained where it is not there yet, then judged.

    python -m aapt.train.ablations --seeds 0 1 --only short teacher-forced

Stages 1 and 2 are those of `make train` (runs/adapt, runs/distill), shared by all; a seed changes stage 3,
and for the network without recycling what comes before it too. Scores go to docs/scores;
`python -m aapt.evals results` makes tables and plots of them. Stop and start as you like.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from aapt.train.state import write


@dataclass(frozen=True)
class Run:
    """One run: `python -m aapt.train STAGE` with these options, from the weights of another.

    adapted: whose weights the judge begins with; without it a stage 3 goes on with both players of `init`.
    """

    name: str
    stage: str
    init: str
    options: tuple[str, ...]
    adapted: str | None = None
    is_judged: bool = True

    def command(self, runs: Path, shared: list[str], seed: int) -> list[str]:
        """What trains it; the same command goes on where it was stopped."""
        others = {"--run": self.name, "--init": self.init, "--adapted": self.adapted}
        chosen = [
            part for flag, name in others.items() if name for part in (flag, str(runs / _folder(name, seed)))
        ]
        return [sys.executable, "-m", "aapt.train", self.stage, *shared, *chosen, *self.options]


SHARED = ("adapt", "distill")  # made by `make train`, whatever the seed
UPDATES = ("--steps", "200", "--judge-first", "40", "--judge-rate", "5", "--penalty", "25")
PLAYED = (*UPDATES, "--late", "0.25")
NOT_RECYCLED = ("--no-recycling", "--late", "0.25", "--clips", "12", "--optimizer", "muon")
# Ten latents are 1.7 s. Of every step one segment is learnt from, so that all runs learn from as many clips.
RUNS = (
    Run("short", "adversarial", "distill", PLAYED, adapted="adapt"),
    Run(
        "medium", "adversarial", "distill",
        (*PLAYED, "--extensions", "1", "--graded", "1"), adapted="adapt",
    ),
    Run(
        "long", "adversarial", "distill",
        (*PLAYED, "--extensions", "5", "--graded", "1"), adapted="adapt",
    ),
    Run("teacher-forced", "adversarial", "distill", (*UPDATES, "--teacher-forced"), adapted="adapt"),
    Run(
        "unrecycled-adapt", "adapt", "adapt",
        ("--steps", "300", "--learning-rate", "5e-4", "--pure-noise", "0.5", *NOT_RECYCLED), is_judged=False,
    ),
    Run(
        "unrecycled-distill", "distill", "unrecycled-adapt",
        ("--steps", "100", "--learning-rate", "2e-4", "--grid-steps", "16", *NOT_RECYCLED), is_judged=False,
    ),
    Run(
        "unrecycled", "adversarial", "unrecycled-distill",
        (*PLAYED, "--extensions", "5", "--graded", "1", "--no-recycling"), adapted="unrecycled-adapt",
    ),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aapt.train.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="road")
    parser.add_argument("--data", type=Path, default=Path("data/road"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--codec", type=Path, default=Path("runs/codec"))
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--scores", type=Path, default=Path("docs/scores"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the dreams are that are judged")
    options = parser.parse_args()
    try:
        _check(options)
        _make(options)
    except FileNotFoundError as error:
        raise SystemExit(f"ablations: {error}") from None
    except subprocess.CalledProcessError as error:
        command = shlex.join(error.cmd)
        raise SystemExit(f"ablations: see above; {command} ended with {error.returncode}") from None


def _check(options: argparse.Namespace) -> None:
    """Raises FileNotFoundError where a run is missing that these begin with, or that is judged too."""
    chosen = [run for run in RUNS if options.only is None or run.name in options.only]
    begun = {name for run in chosen for name in (run.init, run.adapted) if name}
    earlier = begun - {run.name for run in chosen} - {*SHARED}
    for folder, how in (
        (options.codec, "`make train` makes it"),
        *((options.runs / name, "`make train` makes it") for name in SHARED),
        (options.runs / "aapt", "`make ablations` makes it first"),
        *(
            (options.runs / _folder(name, seed), f"--only {name} makes it")
            for seed in options.seeds
            for name in sorted(earlier)
        ),
    ):
        if not (folder / "weights.pt").exists():
            raise FileNotFoundError(f"{folder / 'weights.pt'} is missing, and ablations begin with it: {how}")
    if not (options.checkpoint / "model.json").exists():
        raise FileNotFoundError(f"{options.checkpoint} is no checkpoint folder; `make train` makes out/road")


def _make(options: argparse.Namespace) -> None:
    for seed in options.seeds:
        for run in RUNS:
            if options.only is None or run.name in options.only:
                _train(run, options, seed)
                if run.is_judged:
                    judge(options, run.name, seed, _generator(options.runs / _folder(run.name, seed)))
    for name, more in (
        ("diffusion", ("adapt", "--steps", "8")),
        ("diffusion-one-step", ("adapt",)),
        ("consistency", ("distill",)),
        ("aapt", ("aapt",)),
    ):
        judge(options, name, 0, options.runs / more[0] / "weights.pt", *more[1:])
    network, played = options.checkpoint / "dit.safetensors", ("--seconds", str(options.seconds))
    shipped = ("--checkpoint", str(options.checkpoint))
    _keep(options.scores / "shipped-0.json", network, "drift", *shipped, *played)
    _keep(options.scores / "drive" / "shipped-0.json", network, "drive", *shipped, *played)
    codec = options.checkpoint / "vae.safetensors"
    _keep(options.scores / "elsewhere-0.json", codec, "drift", *shipped, *played, "--elsewhere")
    _keep(options.scores / "cost.json", network, "cost", *shipped)


def _train(run: Run, options: argparse.Namespace, seed: int) -> None:
    shared = ["--preset", options.preset, "--data", str(options.data), "--codec", str(options.codec)]
    print(f"{run.name}, seed {seed}", flush=True)
    subprocess.run(run.command(options.runs, [*shared, "--seed", str(seed)], seed), check=True)


def judge(options: argparse.Namespace, name: str, seed: int, weights: Path, *more: str) -> None:
    """Play 60 s and keep the scores as NAME-SEED.json, unless those of these weights are there."""
    recycling = ["--no-recycling"] if "unrecycled" in name else []
    played = ["--checkpoint", str(options.checkpoint), "--seconds", str(options.seconds)]
    out = options.scores / f"{name}-{seed}.json"
    chosen = ("--weights", str(weights), *recycling)
    _keep(out, weights, "drift", *played, *chosen, *more)
    if not more:  # a driver that looks cannot wait for several steps a latent
        _keep(options.scores / "drive" / out.name, weights, "drive", *played, *chosen)


def _keep(out: Path, source: Path, *command: str) -> None:
    if _is_newer(out, source):
        return
    whole = [sys.executable, "-m", "aapt.evals", *command, "--json"]
    said = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    partial.write_text(said.splitlines()[-1] + "\n")
    partial.replace(out)


def _is_newer(made: Path, source: Path) -> bool:
    return made.exists() and made.stat().st_mtime >= source.stat().st_mtime


def _folder(name: str, seed: int) -> str:
    return name if name in SHARED else f"ablations/{name}-{seed}"


def _generator(run: Path) -> Path:
    """The generator itself: its moving average has hardly left where it began after so few updates."""
    made, state = run / "generator.pt", run / "state.pt"
    if not _is_newer(made, state):
        write(torch.load(state, weights_only=True)["networks"]["generator"], made)
    return made


if __name__ == "__main__":
    main()
