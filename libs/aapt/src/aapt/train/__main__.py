"""The recipe as commands; each goes on from where it was stopped.

    python -m aapt.train codec   --preset road --data data/road --run runs/codec --steps 3300
    python -m aapt.train pretrain --preset road --data data/road --run runs/pretrain --steps 1000 \\
        --codec runs/codec
    python -m aapt.train adapt   --preset road --data data/road --run runs/adapt --steps 4000 \\
        --codec runs/codec --init runs/pretrain
    python -m aapt.train distill --preset road --data data/road --run runs/distill --steps 600 \\
        --codec runs/codec --init runs/adapt
    python -m aapt.train adversarial --preset road --data data/road --run runs/short --steps 400 \\
        --codec runs/codec --init runs/distill --adapted runs/adapt
    python -m aapt.train adversarial --preset road --data data/road --run runs/long --steps 100 \\
        --codec runs/codec --init runs/short --extensions 5
    python -m aapt.train export  --preset road --data data/road --codec runs/codec --init runs/distill \\
        --out checkpoints/road

In several processes, which share the network, each with clips of its own; or two of them each clip:

    torchrun --nproc-per-node 4 -m -- aapt.train adapt ... --sequence-shards 2
"""

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # before torch: two spinning programs slow each other sixfold

import torch

from aapt.checkpoint import Model, save, untrained
from aapt.dit.model import DiT
from aapt.parallel import multiplies_bfloat16
from aapt.presets import PRESETS
from aapt.train.adapt import JUDGED_LATENTS, Adapt, AdaptConfig, judged_places
from aapt.train.adversarial import Adversarial, AdversarialConfig
from aapt.train.codec import Codec, normalise
from aapt.train.distill import Distill, DistillConfig
from aapt.train.loop import LoopConfig, Stage, train
from aapt.train.pretrain import Pretrain, PretrainConfig
from aapt.train.sharding import Ranks, are_several, join, leave
from aapt.train.state import load_players, load_weights, write
from aapt.worlds.clips import HELD_OUT_EPISODES, BadRecording, Episode, each_readable, episode_paths
from aapt.worlds.latents import Clips, encode

CONFIGS: dict[
    str, type[PretrainConfig] | type[AdaptConfig] | type[DistillConfig] | type[AdversarialConfig]
] = {
    "pretrain": PretrainConfig,
    "adapt": AdaptConfig,
    "distill": DistillConfig,
    "adversarial": AdversarialConfig,
}


# Whose weights a stage may begin with.
BEFORE = {
    "pretrain": ["pretrain"],
    "adapt": ["pretrain", "adapt"],
    "distill": ["adapt", "distill"],
    "adversarial": ["distill", "adversarial"],
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    join()
    try:
        ranks = Ranks(options.sequence_shards, torch.device(options.device).type)
        preset = PRESETS[options.preset]
        preset = replace(preset, dit=replace(preset.dit, recycles=options.recycling))
        model = untrained(preset, options.seed, ranks.parallel)
        if options.command == "codec":
            _train_codec(model, options)
        elif options.command == "export":
            _export(model, options)
        else:
            _train_network(model, options, ranks)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        raise SystemExit(f"{options.command}: {error}") from None
    finally:
        leave()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aapt.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    parser.add_argument("--out", type=Path, help="export: the checkpoint folder")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, help="default 8e-4; adversarial: 2e-5, constant")
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


def _options() -> argparse.Namespace:
    options = parser().parse_args()
    needed = {"adversarial": ("init",), "distill": ("init",), "export": ("init", "out")}
    of_all = () if options.command == "export" else ("run",)
    codec = () if options.command == "codec" else ("codec",)
    for name in (*of_all, *codec, *needed.get(options.command, ())):
        if getattr(options, name) is None:
            parser().error(f"{options.command} needs --{name}")
    if options.command == "export" and not options.recycling:
        parser().error(
            "a checkpoint says its preset, and that recycles: --no-recycling is for the ablation alone"
        )
    if are_several() and (options.command in ("codec", "export") or options.compile):
        parser().error("codec, export and --compile want one process: start it without torchrun")
    return options


def _train_codec(model: Model, options: argparse.Namespace) -> None:
    paths = episode_paths(options.data)
    episodes = each_readable(Episode.load, paths)
    frames = [torch.from_numpy(episode.frames) for episode in episodes if episode is not None]
    learning, held_out = _split(frames)
    if options.init:
        load_weights(model.vae, options.init, ["codec"])
        # What was measured of other pictures; `normalise` measures anew.
        model.vae.mean.zero_()
        model.vae.std.fill_(1)
    stage = Codec(model.vae, learning, held_out)
    train(stage, _loop(options, clip_norm=0.5, weight_decay=0.0), options.run)
    load_weights(model.vae, options.run, ["codec"])
    normalise(model.vae, learning[::8])
    write(model.vae.state_dict(), options.run / "weights.pt")


def _train_network(model: Model, options: argparse.Namespace, ranks: Ranks) -> None:
    load_weights(model.vae, options.codec, ["codec"])
    if options.init:
        load_weights(model.dit, options.init, BEFORE[options.command])
    if not ranks.is_first:
        ranks.wait()  # the first one encodes, the others read what it has written
    with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.bfloat16):
        episodes = encode(
            model.vae.to(options.device), episode_paths(options.data), options.codec / "latents.pt"
        )
    model.vae.to("cpu")
    model.dit.to(options.device)
    if ranks.is_first:
        ranks.wait()
    learning, held_out = (Clips(each, model.text) for each in _split(episodes))
    held_out.pick(judged_places(held_out), JUDGED_LATENTS)  # raises now rather than at the first evaluation
    stage = _stage(model, learning, held_out, options, ranks)
    loop = _loop(options, clip_norm=1.0, weight_decay=0.01)
    if isinstance(stage, Adversarial):
        # As in the paper: RMSProp, a constant rate, no decay of weights.
        rate, optimizer = options.learning_rate or 2e-5, options.optimizer or "rmsprop"
        loop = replace(loop, learning_rate=rate, optimizer=optimizer, final_rate=1.0, weight_decay=0.0)
    train(stage, loop, options.run, ranks)


def _stage(
    model: Model, learning: Clips, held_out: Clips, options: argparse.Namespace, ranks: Ranks
) -> Stage[Any]:
    kind = CONFIGS[options.command]
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    config = kind(**{f.name: chosen[f.name] for f in fields(kind) if f.name in chosen})
    model.dit.is_checkpointed = options.checkpoint_activations
    if isinstance(config, AdversarialConfig):
        adapted = DiT(model.preset.dit, ranks.parallel)
        adapted.is_checkpointed = options.checkpoint_activations
        if options.adapted:
            load_weights(adapted, options.adapted, ["adapt"])
        adapted.to(options.device)
        torch.manual_seed(options.seed)  # the heads of the discriminator begin at random
        stage = Adversarial(model, adapted, learning, held_out, config, is_compiled=options.compile)
        if not options.adapted:
            load_players({turn.name: turn.network for turn in stage.turns}, options.init)
        return stage
    if options.compile:
        model.dit.compile()
    if isinstance(config, PretrainConfig):
        return Pretrain(model, learning, held_out, config)
    if isinstance(config, AdaptConfig):
        return Adapt(model, learning, held_out, config)
    distill = Distill(model, learning, held_out, config)
    ranks.shard(distill.teacher, stays_gathered=False)
    if options.compile:
        distill.teacher.compile()
    return distill


def _export(model: Model, options: argparse.Namespace) -> None:
    load_weights(model.vae, options.codec, ["codec"])
    load_weights(model.dit, options.init, list(CONFIGS))
    # Pictures to begin with come from episodes that were never trained on.
    held_out = each_readable(Episode.load, episode_paths(options.data)[-HELD_OUT_EPISODES:])
    model.starts = [torch.from_numpy(episode.frames[0].copy()) for episode in held_out if episode is not None]
    save(model, options.out, {"codec": str(options.codec), "network": str(options.init)})
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"wrote {options.out}: {size / 1e6:.1f} MB")


Recorded = TypeVar("Recorded")


def _split(episodes: list[Recorded]) -> tuple[list[Recorded], list[Recorded]]:
    if len(episodes) <= HELD_OUT_EPISODES:
        raise BadRecording(
            f"{len(episodes)} recordings can be read, and the last {HELD_OUT_EPISODES} are held out;"
            " record more"
        )
    return episodes[:-HELD_OUT_EPISODES], episodes[-HELD_OUT_EPISODES:]


def _loop(options: argparse.Namespace, *, clip_norm: float, weight_decay: float) -> LoopConfig:
    return LoopConfig(
        steps=options.steps,
        learning_rate=options.learning_rate or 8e-4,
        clip_norm=clip_norm,
        weight_decay=weight_decay,
        evaluate_every=options.evaluate_every,
        seed=options.seed,
        bfloat16=options.bfloat16,
        optimizer=options.optimizer or "adamw",
        kind=_kind(options),
        is_compiled=options.compile,
    )


def _kind(options: argparse.Namespace) -> dict[str, str]:
    """What a run is not to change half way: everything but how long and how fast it learns."""
    config = CONFIGS.get(options.command)
    names = ["preset"] if config is None else ["preset", "recycling", *(f.name for f in fields(config))]
    given = {name: str(getattr(options, name)) for name in names if getattr(options, name) is not None}
    return {"stage": options.command, **given}


if __name__ == "__main__":
    main()
