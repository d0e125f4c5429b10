"""A dream that is driven by looking at it, against the game driven the same way.

A recording's keys were meant for the recording's road. A dream that obeys them leaves its own road at the
first bend that differs, as the game would on another track, so `drift` cannot tell obedience from decay.
Here a driver (`worlds/eyes.py`) sees the dreamt frames and nothing else, and steers by them:

- on_road_ratio: of all frames, those that show the car on the road.
- rotation and translation error: the motion that the regressor names for a dreamt latent, against the motion
  of the game's own car under the very keys that were pressed.
- turn_ratio: by how much the dream turns where the game does (1: as much).
- frechet, sharpness_ratio: features and edges, against the game driven by the same eyes on as many tracks.
- static_ratio: of the latents in which the game's car moves, those in which the dream's moves less than a
  fifth of that.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aapt.checkpoint import Model
from aapt.evals.drives import latents_in, read_drive
from aapt.evals.frechet import frechet_distance
from aapt.evals.motion import MotionRegressor, motion_errors, true_motion, windows
from aapt.evals.pictures import edge_energy
from aapt.rollout import Rollout
from aapt.shapes import FRAMES_PER_LATENT, Controls, Frames, Latents, Text, to_video
from aapt.worlds.clips import FRAMES_PER_SECOND
from aapt.worlds.drivers import SightedDriver
from aapt.worlds.latents import LATENTS_AT_ONCE
from aapt.worlds.watcher import Watcher

FIRST_SEED = 30_000  # no training has seen their tracks
MOVING_M = 0.3  # over one latent
STILL = 0.2  # of what the game's car moves by


@dataclass(frozen=True)
class Driven:
    """What was seen and pressed.

    controls[i]: under which frames 4·i + 1 .. 4·i + 4 came about. is_on_road: of all frames but the last.
    """

    frames: Frames  # 1 + 4·k
    controls: Float[Tensor, "k 4 c"]
    is_on_road: Bool[Tensor, " f_less_one"]


@torch.inference_mode()
def drive_dream(model: Model, paths: list[Path], seconds: float, seed: int = 0) -> list[Driven]:
    """Begin where recordings begin, and drive on by sight."""
    latents = latents_in(model.preset, seconds)
    firsts = [read_drive(path, 1).frames[:1] for path in paths]
    rollout = Rollout(model, len(paths))
    watchers = []
    text = model.text.encode(model.preset.prompt)
    seen: list[list[Frames]] = []
    for slot, first in enumerate(firsts):
        latent = model.vae.encode(to_video(first)[None])[0, 0]
        rollout.open_latent(slot, latent, text, seed + slot)
        watchers.append(Watcher(model.vae, model.preset.keys, latent))
        seen.append([watchers[slot].frames])
    held: list[list[Tensor]] = [[] for _ in paths]
    on_road: list[list[bool]] = [[] for _ in paths]
    for _ in tqdm(range(latents), "driving", unit="latent", leave=False):
        for slot, watcher in enumerate(watchers):
            controls, are_on_road = watcher.answer()
            on_road[slot] += are_on_road
            held[slot].append(controls)
        made = rollout.step({slot: held[slot][-1] for slot in range(len(paths))})
        for slot, latent in made.items():
            watchers[slot].see(latent)
            seen[slot].append(watchers[slot].frames)
    return [
        Driven(torch.cat(frames), torch.stack(controls), torch.tensor(road))
        for frames, controls, road in zip(seen, held, on_road, strict=True)
    ]


def drive_games(count: int, seconds: float) -> list[Driven]:
    """`drive_game` on so many tracks."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    return [drive_game(seed, seconds) for seed in tqdm(seeds, "driving the game", unit="drive", leave=False)]


def drive_game(seed: int, seconds: float) -> Driven:
    """The same driver in `road` itself, on a track of its own.

    Raises ModuleNotFoundError where the game is not installed.
    """
    from aapt.worlds import road  # pygame is no small thing to load, and may not be there

    game = road.Road(seed)
    game.place(tile=20, offset_m=0.0, turn_rad=0.0, speed_mps=road.CRUISE_SPEED_MPS)
    latents = max(1, round(seconds * FRAMES_PER_SECOND / FRAMES_PER_LATENT))
    driver = SightedDriver(road.KEYS)
    frames, held, on_road = [game.picture()], [], []
    for _ in range(FRAMES_PER_LATENT * latents):
        keys, is_on_road = driver.look(frames[-1])
        on_road.append(is_on_road)
        held.append(keys)
        game.step(keys)
        frames.append(game.picture())
    controls = torch.from_numpy(np.stack(held)).float().unflatten(0, (latents, FRAMES_PER_LATENT))
    return Driven(torch.from_numpy(np.stack(frames)), controls, torch.tensor(on_road))


def game_motion(controls: Float[Tensor, "k 4 c"], speed_mps: float) -> Float[Tensor, "k 3"]:
    """How the game's car moves under `controls`, with road under all its wheels wherever it goes."""
    from aapt.worlds import road

    game = road.Road(FIRST_SEED)
    game.place(tile=20, offset_m=0.0, turn_rad=0.0, speed_mps=speed_mps)
    game.pave()
    poses = [game.pose]
    for row in controls.flatten(0, 1).numpy():
        game.step(row)
        poses.append(game.pose)
    return true_motion(torch.from_numpy(np.stack(poses)))


@torch.inference_mode()
def play_elsewhere(
    model: Model, speeds_mps: list[float], first: Float[Tensor, "b c y x"], text: Text, controls: Controls
) -> Latents:
    """Not a dream, and given like one: what the game itself shows under keys that were meant for another
    track, through the codec. More cannot be asked of a dream that obeys keys and makes up its road."""
    from aapt.worlds import road

    made = []
    for number, (speed_mps, rows) in enumerate(zip(speeds_mps, controls, strict=True)):
        game = road.Road(FIRST_SEED + number)
        game.place(tile=20, offset_m=0.0, turn_rad=0.0, speed_mps=speed_mps)
        frames = [game.picture()]
        for row in rows.flatten(0, 1).numpy():
            game.step(row)
            frames.append(game.picture())
        video, span = to_video(torch.from_numpy(np.stack(frames))), FRAMES_PER_LATENT * LATENTS_AT_ONCE
        pieces = [video[i : i + span + 1] for i in range(0, len(video) - 1, span)]
        made.append(torch.cat([model.vae.encode(piece[None])[0, 1:] for piece in pieces]))
    return torch.stack(made)


@torch.inference_mode()
def measure_driving(
    regressor: MotionRegressor, dreams: list[Driven], speeds_mps: list[float], games: list[Driven]
) -> dict[str, float]:
    """The numbers that the head of this file explains; `game_*` are those of the game itself."""
    seen, named, edges = zip(*(_read(regressor, dream.frames) for dream in dreams), strict=True)
    true = [game_motion(d.controls, s) for d, s in zip(dreams, speeds_mps, strict=True)]
    motion, truth = torch.cat(named), torch.cat(true)
    rotation, translation = motion_errors(motion, truth)
    moves, moved = truth[:, 1:].norm(dim=-1), motion[:, 1:].norm(dim=-1)
    is_moving = moves > MOVING_M
    game_seen, _, game_edges = zip(*(_read(regressor, game.frames) for game in games), strict=True)
    one, other = torch.cat(game_seen).tensor_split(2)
    numbers = {
        "on_road_ratio": _mean_on_road(dreams),
        "game_on_road_ratio": _mean_on_road(games),
        "rotation_error_deg": float(rotation.mean()),
        "translation_error": float(translation.mean()),
        "turn_ratio": float((motion[:, 0] * truth[:, 0]).sum() / truth[:, 0].square().sum()),
        "frechet": frechet_distance(torch.cat(seen), torch.cat(game_seen)),
        "frechet_floor": frechet_distance(one, other),
        "sharpness_ratio": float(torch.stack(edges).mean() / torch.stack(game_edges).mean()),
        "static_ratio": float((moved < STILL * moves)[is_moving].float().mean()),
        "drives": float(len(dreams)),
        "seconds": len(true[0]) * FRAMES_PER_LATENT / FRAMES_PER_SECOND,
    }
    return {name: round(value, 4) for name, value in numbers.items()}


def draw_drives(drives: list[Driven], out: Path, columns: int = 15) -> None:
    """A PNG: a row a drive, time from left to right."""
    rows = []
    for each in drives:
        at = torch.linspace(0, len(each.frames) - 1, columns).round().long()
        rows.append(torch.cat(list(each.frames[at]), 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(rows).numpy()).quantize(256).save(out, optimize=True)


def _mean_on_road(drives: list[Driven]) -> float:
    return float(torch.cat([each.is_on_road for each in drives]).float().mean())


def _read(
    regressor: MotionRegressor, frames: Frames
) -> tuple[Float[Tensor, "k d"], Float[Tensor, "k 3"], Float[Tensor, ""]]:
    """Of 1 + 4·k frames: features, motion, and the mean energy of edges."""
    span, features, edges = LATENTS_AT_ONCE * FRAMES_PER_LATENT, [], []
    for begin in range(0, len(frames) - 1, span):
        video = to_video(frames[begin : begin + span + 1])
        features.append(regressor.features(windows(video)))
        edges.append(edge_energy(video[None, 1:])[0])
    seen = torch.cat(features)
    return seen, regressor.motion(seen), torch.cat(edges).mean()
