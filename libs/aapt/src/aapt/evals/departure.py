"""How a free rollout departs from the game itself under the same keys: pictures, motion, features, latent by
latent.

The game tells the truth for the keys that were held, so every second of a dream can be held against it:

- PSNR and SSIM against the true frames. After some seconds the dreamt road is another road, and both say
  little.
- Rotation and translation error: the motion that a regressor names for the dreamt latent, against the true
  one. The same keys turn and drive the same car, on whichever road.
- The Fréchet distance between features of dreamt and of true latents (the regressor's last hidden layer).
- Sharpness: edge energy of dreamt frames, in total, over that of true frames. The codec alone loses a part of
  it (`codec_sharpness_ratio`).
- Static: of the latents in which the true picture moves (its frames differ from those before by `MOVING` of
  255 or more on average), the share in which the dreamt one changes by less than `STILL` of what the true
  one does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm import tqdm

from aapt.checkpoint import Model
from aapt.evals.drift import HORIZONS, latent_numbers
from aapt.evals.drives import Drive, latents_in, read_drive
from aapt.evals.frechet import frechet_distance
from aapt.evals.motion import MotionError, MotionRegressor, motion_errors, true_motion, windows
from aapt.evals.pictures import edge_energy, movement, psnr_db, squared_error, ssim
from aapt.presets import Preset
from aapt.shapes import FRAMES_PER_LATENT, Controls, Latents, Text, Video, to_frames, to_video
from aapt.worlds.latents import LATENTS_AT_ONCE

MOVING = 0.3  # mean absolute difference of neighbouring frames, of 255; a car at walking pace makes it
STILL = 0.2  # of what the true picture changes by
FRECHET_SECONDS = 5

Dream = Callable[[Float[Tensor, "b c y x"], Text, Controls], Latents]
PerLatent = Float[Tensor, "b t"]


@dataclass(frozen=True)
class Departure:
    """What was measured: row i is drive i, column j its latent j + 1."""

    latents_per_second: float
    squared_error: PerLatent
    ssim: PerLatent
    edges: PerLatent
    true_edges: PerLatent
    rotation_error_deg: PerLatent
    translation_error_m: PerLatent
    is_moving: Bool[Tensor, "b t"]
    is_static: Bool[Tensor, "b t"]
    features: Float[Tensor, "b t d"]
    true_features: Float[Tensor, "b t d"]

    def over(self, span: slice) -> dict[str, float]:
        """The scores of some latents of all drives."""
        moving, static = self.is_moving[:, span], self.is_static[:, span]
        return {
            "psnr_db": float(psnr_db(self.squared_error[:, span].mean())),
            "ssim": float(self.ssim[:, span].mean()),
            "rotation_error_deg": float(self.rotation_error_deg[:, span].mean()),
            "translation_error": float(self.translation_error_m[:, span].mean()),
            "sharpness_ratio": float(self.edges[:, span].sum() / self.true_edges[:, span].sum()),
            "static_ratio": float((static & moving).sum() / moving.sum().clamp_min(1)),
        }

    def rows(self, seconds: int = 1) -> list[dict[str, float | None]]:
        """The scores of every `seconds` seconds, and the Fréchet distance over the last five of them."""
        return [
            {"second": end / self.latents_per_second, **self.over(slice(begin, end)),
             "frechet": self._frechet_until(end)}
            for begin, end in self._spans(seconds)
        ]  # fmt: skip

    def frechet(self) -> float:
        """Between dreamt and true latents, all of them."""
        return frechet_distance(self.features.flatten(0, 1), self.true_features.flatten(0, 1))

    def frechet_floor(self) -> float:
        """Between the two halves of the true latents, drive after drive: what other drives make of it.

        Each half is half as many as `frechet` compares, which makes the floor a little too high.
        """
        one, other = self.true_features.flatten(0, 1).tensor_split(2)
        return frechet_distance(one, other)

    def _frechet_until(self, end: int) -> float | None:
        begin = end - round(FRECHET_SECONDS * self.latents_per_second)
        if begin < 0:
            return None
        span = slice(begin, end)
        return frechet_distance(
            self.features[:, span].flatten(0, 1), self.true_features[:, span].flatten(0, 1)
        )

    def _spans(self, seconds: int) -> list[tuple[int, int]]:
        latents = self.ssim.shape[1]
        begins = [round(i * self.latents_per_second) for i in range(0, latents, seconds)]
        return list(pairwise([*(begin for begin in begins if begin < latents), latents]))


@dataclass(frozen=True)
class Judgement:
    """How a dream departs from the game; how the truth does that only went through the codec, over the first
    ten seconds; and pictures.

    near: the numbers of `latent_numbers`.
    pictures: of each drive [columns, 2, h, w, 3]: what happened and what was dreamt after latent
      `columns[i]`.
    """

    departure: Departure
    codec: Departure
    near: dict[str, float]
    columns: list[int]
    pictures: list[Tensor]


@torch.inference_mode()
def judge(
    model: Model, regressor: MotionRegressor, paths: list[Path], seconds: float, dream: Dream
) -> Judgement:
    """Play all drives at once and measure them one after another; frames are decoded a few at a time.

    All are played under the preset's prompt: a recording's own caption is drawn when it ends, and so depends
    on its length.
    """
    latents = latents_in(model.preset, seconds)
    true, controls = _begin(model, paths, latents)
    first = true[:, 0]
    made = dream(first, model.text.encode(model.preset.prompt).expand(len(paths), -1, -1), controls)
    columns = _columns(latents, seconds)
    dreamt, carried, pictures = [], [], []
    for row, path in enumerate(tqdm(paths, desc="measuring", unit="drive", leave=False)):
        drive = read_drive(path, latents)
        parts, shown = _measure(model, regressor, drive, torch.cat([first[row, None], made[row]]), columns)
        dreamt.append(parts)
        carried.append(_through_codec(model, regressor, drive, true[row]))
        pictures.append(shown)
    return Judgement(
        _departure(model.preset, dreamt),
        _departure(model.preset, carried),
        latent_numbers(made, true[:, 1:]),
        columns,
        pictures,
    )


def summary(judgement: Judgement, error: MotionError) -> dict[str, float]:
    """The numbers of the evaluation command; `error` is the regressor's own."""
    departure, codec = judgement.departure, judgement.codec
    first_second = departure.over(slice(round(departure.latents_per_second)))
    scores, at_best = departure.over(slice(None)), codec.over(slice(None))
    numbers = {
        "psnr_first_second_db": first_second["psnr_db"],
        "rotation_error_deg": scores["rotation_error_deg"],
        "translation_error": scores["translation_error"],
        "frechet": departure.frechet(),
        "sharpness_ratio": scores["sharpness_ratio"],
        "static_ratio": scores["static_ratio"],
        "ssim_first_second": first_second["ssim"],
        "frechet_floor": departure.frechet_floor(),
        "regressor_rotation_error_deg": error.rotation_deg,
        "regressor_translation_error_m": error.translation_m,
        **{f"codec_{name}": value for name, value in at_best.items()},
        "seconds": departure.ssim.shape[1] / departure.latents_per_second,
        "drives": float(len(departure.ssim)),
        **judgement.near,
    }
    return {name: round(value, 4) for name, value in numbers.items()}


def _begin(model: Model, paths: list[Path], latents: int) -> tuple[Float[Tensor, "b s c y x"], Controls]:
    """The true latents of all drives from the first picture to the farthest horizon, and all keys."""
    near = 1 + FRAMES_PER_LATENT * min(latents, HORIZONS[-1])
    encoded, controls = [], []
    for path in paths:  # one at a time: five minutes of frames are 200 MB
        drive = read_drive(path, latents)
        encoded.append(model.vae.encode(to_video(drive.frames[:near])[None])[0])
        controls.append(drive.controls)
    return torch.stack(encoded), torch.stack(controls)


def _departure(preset: Preset, measured: list[dict[str, Tensor]]) -> Departure:
    whole = {name: torch.stack([each[name] for each in measured]) for name in measured[0]}
    return Departure(latents_per_second=preset.frames_per_second / FRAMES_PER_LATENT, **whole)


def _columns(latents: int, seconds: float) -> list[int]:
    count = min(latents, 20, max(9, round(seconds / 4)))
    return [round(i) for i in torch.linspace(1, latents, count).tolist()]


def _through_codec(
    model: Model, regressor: MotionRegressor, drive: Drive, true: Float[Tensor, "t c y x"]
) -> dict[str, Tensor]:
    """What a dream would score that is the truth itself."""
    recorded = to_video(drive.frames[: 1 + FRAMES_PER_LATENT * (len(true) - 1)])[None]
    carried = model.vae.decode(true[None]).clamp(-1, 1)
    return _compare(regressor, carried, recorded, true_motion(drive.poses)[: len(true) - 1])


def _measure(
    model: Model,
    regressor: MotionRegressor,
    drive: Drive,
    dreamt: Float[Tensor, "t c y x"],
    columns: list[int],
) -> tuple[dict[str, Tensor], Tensor]:
    motion = true_motion(drive.poses)
    measured: dict[str, Tensor] = {}  # filled in place: small pieces among large ones would scatter the heap
    shown = []
    tails, last = None, None
    for begin in range(0, len(motion), LATENTS_AT_ONCE):
        end = min(begin + LATENTS_AT_ONCE, len(motion))
        fresh, tails = model.vae.decode_after(dreamt[None, 0 if last is None else begin + 1 : end + 1], tails)
        video = (fresh if last is None else torch.cat([last, fresh], 1)).clamp(-1, 1)
        last = video[:, -1:]
        true = to_video(drive.frames[FRAMES_PER_LATENT * begin : FRAMES_PER_LATENT * end + 1])[None]
        for name, values in _compare(regressor, video, true, motion[begin:end]).items():
            whole = measured.setdefault(name, values.new_empty(len(motion), *values.shape[1:]))
            whole[begin:end] = values
        for column in (c for c in columns if begin < c <= end):
            at = FRAMES_PER_LATENT * (column - begin)
            shown.append(torch.cat([to_frames(each[0, at : at + 1]) for each in (true, video)]))
    return measured, torch.stack(shown)


def _compare(
    regressor: MotionRegressor, video: Video, true: Video, motion: Float[Tensor, "k 3"]
) -> dict[str, Tensor]:
    """Of a piece of one drive, [1, 1 + 4·k frames]: every number, [k]."""

    def per_latent(frames: Float[Tensor, "1 f"]) -> Float[Tensor, " k"]:
        return frames[0].unflatten(0, (-1, FRAMES_PER_LATENT)).mean(1)

    features, true_features = regressor.features(windows(video[0])), regressor.features(windows(true[0]))
    rotation_error_deg, translation_error_m = motion_errors(regressor.motion(features), motion)
    moved, truly = per_latent(movement(video)), per_latent(movement(true))
    after, true_after = video[:, 1:], true[:, 1:]
    return {
        "squared_error": per_latent(squared_error(after, true_after)),
        "ssim": per_latent(ssim(after, true_after)),
        "edges": per_latent(edge_energy(after)),
        "true_edges": per_latent(edge_energy(true_after)),
        "rotation_error_deg": rotation_error_deg,
        "translation_error_m": translation_error_m,
        "is_moving": truly >= MOVING,
        "is_static": moved < STILL * truly,
        "features": features,
        "true_features": true_features,
    }
