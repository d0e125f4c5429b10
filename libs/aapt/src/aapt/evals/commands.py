"""What each evaluation command does; what is heavy or may not be installed is imported where it is used."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import torch

from aapt.checkpoint import BadCheckpoint, Model, fill, load
from aapt.dit.model import DiT
from aapt.evals.backbones import MissingFile
from aapt.parallel import multiplies_bfloat16
from aapt.worlds.clips import HELD_OUT_EPISODES, episode_paths


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
    from aapt.evals.departure import Dream, judge, summary
    from aapt.evals.diffusion import play_diffusion
    from aapt.evals.drift import play
    from aapt.evals.drives import find_drives, speed_at_start
    from aapt.evals.driving import play_elsewhere
    from aapt.evals.motion import OTHER_POSES, load_regressor
    from aapt.evals.report import draw_sheet, sentence, table

    if options.plot:
        from aapt.evals.curves import plot_departure  # before the work, in case matplotlib is not there
    model = _model(options)
    if model.preset.name in OTHER_POSES:
        raise ValueError(f"the motion of {model.preset.name} cannot be read yet; road's can")
    regressor, error = load_regressor(options.checkpoint)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    dream: Dream = partial(play, model, seed=options.seed, shows_progress=True)
    if options.steps > 1:
        dream = partial(play_diffusion, model, seed=options.seed, steps=options.steps, shift=options.shift)
    if options.elsewhere:
        dream = partial(play_elsewhere, model, [speed_at_start(path) for path in paths])
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


def _drive(options: argparse.Namespace) -> dict[str, float]:
    from aapt.evals.drives import find_drives, speed_at_start
    from aapt.evals.driving import draw_drives, drive_dream, drive_games, measure_driving
    from aapt.evals.motion import load_regressor

    model = _model(options)
    if model.preset.name != "road":
        raise ValueError(f"{model.preset.name} has no driver that looks; road has one")
    regressor, _ = load_regressor(options.checkpoint)
    paths = find_drives(model.preset, options.data, options.seconds, options.clips)
    games = drive_games(options.clips, options.seconds)
    dreams = drive_dream(model, paths, options.seconds, options.seed)
    if options.sheet:
        draw_drives([*dreams, *games[:2]], options.sheet)
    speeds_mps = [speed_at_start(path) for path in paths]
    return _shown(measure_driving(regressor, dreams, speeds_mps, games))


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
    "drive": _drive,
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
