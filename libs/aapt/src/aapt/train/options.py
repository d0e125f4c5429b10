"""What is typed after `python -m aapt.train`, and the configs that it means."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

import torch

from aapt.parallel import multiplies_bfloat16
from aapt.presets import PRESETS
from aapt.train.adapt import AdaptConfig
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.distill import DistillConfig
from aapt.train.loop import LoopConfig
from aapt.train.pretrain import PretrainConfig
from aapt.train.sharding import are_several
from aapt.worlds.eyes import KNOWN

StageConfig = PretrainConfig | AdaptConfig | DistillConfig | AdversarialConfig
CONFIGS: dict[str, type[StageConfig]] = {
    "pretrain": PretrainConfig,
    "adapt": AdaptConfig,
    "distill": DistillConfig,
    "adversarial": AdversarialConfig,
}


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aapt.train",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("codec", *CONFIGS, "export"))
    parser.add_argument("--preset", choices=sorted(PRESETS), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of recorded episodes")
    parser.add_argument("--run", type=Path, help="folder for checkpoints, logs and pictures")
    parser.add_argument("--codec", type=Path, help="run folder of the trained codec")
    parser.add_argument("--init", type=Path, help="run folder whose weights to begin with")
    parser.add_argument(
        "--adapted",
        type=Path,
        help="adversarial: run folder of stage 1, its judge to be; none: both players go on from --init",
    )
    parser.add_argument(
        "--sighted-data",
        type=Path,
        help="adversarial: recordings that were driven by sight, for --by-sight; their seeds must not"
        " be those that are held out of --data",
    )
    parser.add_argument("--out", type=Path, help="export: the checkpoint folder")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, help="default 8e-4; adversarial: 2e-5, which stays")
    parser.add_argument("--warm-up", type=int, help="steps in which the rate rises; default 50")
    parser.add_argument(
        "--clip-norm", type=float, help="default 1, codec 0.5; inf: gradients stay as they are"
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where networks learn; the codec and what is judged stay on the CPU",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument(
        "--optimizer", choices=("adamw", "muon", "rmsprop"), help="default adamw; adversarial: rmsprop"
    )
    parser.add_argument(
        "--recycling",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="off: the first picture is all that is recycled",
    )
    parser.add_argument("--sequence-shards", type=int, default=1, help="processes that share each clip")
    parser.add_argument(
        "--checkpoint-activations",
        action="store_true",
        help="make activations again in the backward pass: less memory, a third more work",
    )
    parser.add_argument(
        "--micro-clips",
        type=int,
        default=0,
        help="clips that are passed at once: fewer take less memory and teach the same; default all",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile: a minute later, twice as fast")
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available() or multiplies_bfloat16(),
        help="multiply in bfloat16; on where the processor or a GPU does",
    )
    for field in {f.name: f for config in CONFIGS.values() for f in fields(config)}.values():
        flag, meaning = "--" + field.name.replace("_", "-"), f"default {field.default}"
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=meaning)
        else:
            parser.add_argument(flag, type=type(field.default), help=meaning)
    return parser


def read_options(description: str | None = None) -> argparse.Namespace:
    """What was typed, where it belongs together; otherwise says so and exits."""
    known = parser(description)
    options = known.parse_args()
    needed = {"adversarial": ("init",), "distill": ("init",), "export": ("init", "out")}
    of_all = () if options.command == "export" else ("run",)
    codec = () if options.command == "codec" else ("codec",)
    for name in (*of_all, *codec, *needed.get(options.command, ())):
        if getattr(options, name) is None:
            known.error(f"{options.command} needs --{name}")
    for name, users in _users().items():
        if getattr(options, name) is not None and options.command not in users:
            flag = "--" + name.replace("_", "-")
            known.error(f"{options.command} has no {flag}, which is for {', '.join(users)}; leave it out")
    if bool(options.by_sight) != bool(options.sighted_data):
        known.error("--by-sight and --sighted-data go together: a share of the steps, and recordings for it")
    if options.by_sight and options.preset not in KNOWN:
        known.error(f"--by-sight: the driver knows what a road looks like, and nothing of {options.preset}")
    if options.command == "export" and not options.recycling:
        known.error(
            "a checkpoint says its preset, and that recycles: --no-recycling is for the ablation alone"
        )
    if are_several() and (options.command in ("codec", "export") or options.compile):
        known.error("codec, export and --compile want one process: start it without torchrun")
    if options.threads < 1:
        known.error(f"--threads is {options.threads}; choose 1 or more")
    if options.micro_clips < 0:
        known.error(f"--micro-clips is {options.micro_clips}; choose 1 or more, or 0 for all at once")
    return options


def stage_config(options: argparse.Namespace) -> StageConfig | None:
    """That of a stage of the network; the codec has none. Raises ValueError where it is out of range."""
    if options.command not in CONFIGS:
        return None
    kind = CONFIGS[options.command]
    chosen = {f.name: getattr(options, f.name) for f in fields(kind)}
    return kind(**{name: value for name, value in chosen.items() if value is not None})


def loop_config(options: argparse.Namespace) -> LoopConfig:
    """How a stage learns. Raises ValueError where it is out of range."""
    loop = LoopConfig(
        steps=options.steps,
        learning_rate=8e-4,
        evaluate_every=options.evaluate_every,
        seed=options.seed,
        bfloat16=options.bfloat16,
        kind=_kind(options),
        is_compiled=options.compile,
    )
    if options.command == "codec":
        loop = replace(loop, clip_norm=0.5, weight_decay=0.0)
    if options.command == "adversarial":
        # As in the paper: RMSProp, no decay of weights, and a rate that stays once it is reached. Two things
        # are ours. The rate is warmed up: RMSProp's mean begins at zero, which makes its first step three
        # times as long as those that follow. Gradients are clipped, which APT does not: those of `road` are
        # 2 to 5 long, so all steps count alike in that mean. `--warm-up 0 --clip-norm inf` leaves both out.
        loop = replace(loop, learning_rate=2e-5, optimizer="rmsprop", final_rate=1.0, weight_decay=0.0)
    given = {
        "learning_rate": options.learning_rate,
        "warmup_steps": options.warm_up,
        "clip_norm": options.clip_norm,
        "optimizer": options.optimizer,
    }
    return replace(loop, **{name: value for name, value in given.items() if value is not None})


def _users() -> dict[str, list[str]]:
    """Which commands take an option that not all of them take."""
    users = {"adapted": ["adversarial"], "sighted_data": ["adversarial"], "out": ["export"]}
    users |= {"run": ["codec", *CONFIGS], "codec": [*CONFIGS, "export"]}
    for command, config in CONFIGS.items():
        for field in fields(config):
            users.setdefault(field.name, []).append(command)
    return users


def _kind(options: argparse.Namespace) -> dict[str, str]:
    """What a run is not to change half way: everything but how long and how fast it learns."""
    kind, config = {"stage": options.command, "preset": options.preset}, stage_config(options)
    if config is None:
        return kind
    chosen = {f.name: getattr(config, f.name) for f in fields(config)}
    told = {"recycling": options.recycling}
    return kind | {name: str(value) for name, value in (told | chosen).items()}
