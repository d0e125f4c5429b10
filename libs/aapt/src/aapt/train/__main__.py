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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # before torch: two spinning programs slow each other sixfold

import torch

from aapt.checkpoint import Model, save, untrained
from aapt.dit.model import DiT
from aapt.presets import PRESETS
from aapt.train.adapt import JUDGED_LATENTS, Adapt, AdaptConfig, judged_places
from aapt.train.adversarial import Adversarial
from aapt.train.adversarial_config import AdversarialConfig
from aapt.train.codec import Codec, normalise
from aapt.train.distill import Distill
from aapt.train.loop import LoopConfig, Stage, train
from aapt.train.options import StageConfig, loop_config, read_options, stage_config
from aapt.train.pretrain import Pretrain, PretrainConfig
from aapt.train.sharding import Ranks, join, leave
from aapt.train.state import check_kind, load_players, load_weights, write
from aapt.worlds.clips import HELD_OUT_EPISODES, BadRecording, Episode, each_readable, episode_paths
from aapt.worlds.latents import Clips, EncodedEpisode, digest_of, encode

# Whose weights a stage may begin with.
BEFORE = {
    "pretrain": ["pretrain"],
    "adapt": ["pretrain", "adapt"],
    "distill": ["adapt", "distill"],
    "adversarial": ["distill", "adversarial"],
}


def main() -> None:
    options = read_options(__doc__)
    torch.set_num_threads(options.threads)
    join()
    try:
        config, loop = stage_config(options), loop_config(options)
        ranks = Ranks(options.sequence_shards, torch.device(options.device).type)
        preset = PRESETS[options.preset]
        preset = replace(preset, dit=replace(preset.dit, recycles=options.recycling))
        model = untrained(preset, options.seed, ranks.parallel)
        if options.command == "codec":
            _train_codec(model, options, loop)
        elif config is None:
            _export(model, options)
        else:
            _train_network(model, options, config, loop, ranks)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        raise SystemExit(f"{options.command}: {error}") from None
    finally:
        leave()


def _train_codec(model: Model, options: argparse.Namespace, loop: LoopConfig) -> None:
    paths = episode_paths(options.data)
    loop = replace(loop, kind={**loop.kind, "data": _named(paths)})
    check_kind(options.run, loop.whole_kind)
    episodes = each_readable(partial(Episode.load, preset=model.preset), paths)
    frames = [torch.from_numpy(episode.frames) for episode in episodes if episode is not None]
    learning, held_out = _split(frames)
    if options.init:
        load_weights(model.vae, options.init, ["codec"])
        # What was measured of other pictures; `normalise` measures anew.
        model.vae.mean.zero_()
        model.vae.std.fill_(1)
    stage = Codec(model.vae, learning, held_out)
    train(stage, loop, options.run)
    load_weights(model.vae, options.run, ["codec"])
    if model.vae.mean.any():
        return  # it was done before: measured anew, it might differ in a last digit, and be another codec
    normalise(model.vae, learning[::8])
    write(model.vae.state_dict(), options.run / "weights.pt")


def _train_network(
    model: Model, options: argparse.Namespace, config: StageConfig, loop: LoopConfig, ranks: Ranks
) -> None:
    load_weights(model.vae, options.codec, ["codec"])
    paths, codec = episode_paths(options.data), _short(digest_of(model.vae.state_dict()))
    wanted = {"codec": codec}
    if options.init:
        load_weights(model.dit, options.init, BEFORE[options.command], wanted)
    kind = {**loop.kind, "codec": codec, "data": _named(paths)}
    driven = episode_paths(options.sighted_data, " --by-sight") if options.sighted_data else []
    if driven:
        kind["sighted"] = _named(driven)
    if options.command == "distill":
        kind["teacher"] = _short(digest_of(model.dit.state_dict()))
    loop = replace(loop, kind=kind)
    check_kind(options.run, loop.whole_kind)  # before anything is encoded
    if not ranks.is_first:
        ranks.wait()  # the first one encodes, the others read what it has written
    learning, held_out = (
        Clips(each, model.text) for each in _split(_encoded(model, options, paths, "latents.pt"))
    )
    sighted = None
    if driven:
        sighted = Clips(_encoded(model, options, driven, "latents-sighted.pt"), model.text)
    model.dit.to(options.device)
    if ranks.is_first:
        ranks.wait()
    held_out.pick(judged_places(held_out), JUDGED_LATENTS)  # raises now rather than at the first evaluation
    stage = _stage(model, learning, held_out, sighted, options, config, wanted, ranks)
    train(stage, loop, options.run, ranks)


def _encoded(
    model: Model, options: argparse.Namespace, paths: list[Path], cache: str
) -> list[EncodedEpisode]:
    vae = model.vae.to(options.device)
    with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.bfloat16):
        episodes = encode(vae, paths, options.codec / cache, model.preset)
    model.vae.to("cpu")
    return episodes


def _stage(
    model: Model,
    learning: Clips,
    held_out: Clips,
    sighted: Clips | None,
    options: argparse.Namespace,
    config: StageConfig,
    wanted: dict[str, str],
    ranks: Ranks,
) -> Stage[Any]:
    model.dit.is_checkpointed = options.checkpoint_activations
    if isinstance(config, AdversarialConfig):
        adapted = DiT(model.preset.dit, ranks.parallel)
        adapted.is_checkpointed = options.checkpoint_activations
        if options.adapted:
            load_weights(adapted, options.adapted, ["adapt"], wanted)
        adapted.to(options.device)
        torch.manual_seed(options.seed)  # the heads of the discriminator begin at random
        stage = Adversarial(
            model,
            adapted,
            learning,
            held_out,
            config,
            sighted=sighted,
            is_compiled=options.compile,
            micro_clips=options.micro_clips,
        )
        if not options.adapted:
            load_players({turn.name: turn.network for turn in stage.turns}, options.init)
        return stage
    if options.compile:
        model.dit.compile()
    if isinstance(config, PretrainConfig):
        return Pretrain(model, learning, held_out, config, micro_clips=options.micro_clips)
    if isinstance(config, AdaptConfig):
        return Adapt(model, learning, held_out, config, micro_clips=options.micro_clips)
    distill = Distill(model, learning, held_out, config, micro_clips=options.micro_clips)
    ranks.shard(distill.teacher, stays_gathered=False)
    if options.compile:
        distill.teacher.compile()
    return distill


def _export(model: Model, options: argparse.Namespace) -> None:
    load_weights(model.vae, options.codec, ["codec"])
    codec = _short(digest_of(model.vae.state_dict()))
    wanted = {"codec": codec, "recycling": "True"}
    load_weights(model.dit, options.init, ["adapt", "distill", "adversarial"], wanted)
    # Pictures to begin with come from episodes that were never trained on.
    paths = episode_paths(options.data)[-HELD_OUT_EPISODES:]
    held_out = [e for e in each_readable(partial(Episode.load, preset=model.preset), paths) if e]
    model.starts = [torch.from_numpy(episode.frames[0].copy()) for episode in held_out]
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


def _named(paths: list[Path]) -> str:
    return f"{len(paths)} recordings {_short(digest_of({}, paths))}"


def _short(digest: str) -> str:
    return digest[:12]


if __name__ == "__main__":
    main()
