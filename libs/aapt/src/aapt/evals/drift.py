"""How a free rollout departs from what really happened under the same controls, in latents.

Fast, for training; `departure.py` measures pictures and motion, second by second.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aapt.checkpoint import Model
from aapt.evals.film import save_film
from aapt.rollout import Rollout
from aapt.shapes import Controls, Frames, Latents, Text, to_frames
from aapt.worlds.latents import Batch

SHOWN_CLIPS = 5
HORIZONS = (1, 4, 15, 30, 60)
SHEET_COLUMNS = (0, 1, 3, 7, 15, 23, 31, 47, 59)  # latents after the first picture, six to a second


def play(
    model: Model,
    first: Float[Tensor, "b c y x"],
    text: Text,
    controls: Controls,
    seed: int = 0,
    *,
    shows_progress: bool = False,
) -> Latents:
    """Roll `model` out from first latents under `controls`, all clips in one rollout."""
    rollout = Rollout(model, len(first))
    for slot in range(len(first)):
        rollout.open_latent(slot, first[slot], text[slot], seed + slot)
    made = []
    latents_due = range(controls.shape[1])
    for i in tqdm(latents_due, "dreaming", unit="latent", leave=False, disable=not shows_progress):
        latents = rollout.step({slot: controls[slot, i] for slot in range(len(first))})
        made.append(torch.stack([latents[slot] for slot in range(len(first))]))
    return torch.stack(made, 1)


@torch.inference_mode()
def measure_drift(
    model: Model, batch: Batch, sheet: Path | None = None, film: Path | None = None
) -> dict[str, float]:
    """The numbers of `latent_numbers`, and the PSNR of the first second against the truth through the codec.

    With `sheet`, a picture, and with `film`, an MP4: for each clip what happened (above) and what was dreamt
    (below).
    """
    made = play(model, batch.first, batch.text, batch.controls)
    second = slice(0, 6)
    numbers = latent_numbers(made, batch.latents)
    numbers["psnr_first_second_to_codec_db"] = round(
        _psnr_db(model, batch, made[:, second], batch.latents[:, second]), 2
    )
    if sheet is not None or film is not None:
        show(model, batch, made, sheet, film)
    return numbers


@torch.inference_mode()
def show(model: Model, batch: Batch, made: Latents, sheet: Path | None, film: Path | None) -> None:
    """What happened in a few clips above what was made of them: a picture, and an MP4."""
    pairs = [_decoded(model, batch, made, clip) for clip in range(min(SHOWN_CLIPS, len(made)))]
    if sheet is not None:
        _save_sheet(sheet, pairs)
    if film is not None:
        save_pairs(film, pairs, model.preset.frames_per_second)


def save_pairs(film: Path, pairs: list[tuple[Frames, Frames]], frames_per_second: float) -> None:
    """Pairs of videos side by side, in each the first above the second."""
    save_film(film, torch.cat([torch.cat(pair, 1) for pair in pairs], 2), frames_per_second)


def latent_numbers(made: Latents, true: Latents) -> dict[str, float]:
    """Latent error, sharpness against the truth and deviation at each horizon (in latents, six to a second).

    Latents have unit variance, so two unrelated clips are at an error of about 2, and a blur that knows
    nothing at 1.
    """
    numbers: dict[str, float] = {}
    for horizon in (h for h in HORIZONS if h <= true.shape[1]):
        span = slice(max(0, horizon - 3), horizon)
        numbers[f"error_{horizon}"] = round(float((made[:, span] - true[:, span]).square().mean()), 4)
        numbers[f"sharpness_{horizon}"] = round(float(_edges(made[:, span]) / _edges(true[:, span])), 3)
    numbers["deviation_last"] = round(float(made[:, -6:].std()), 3)
    return numbers


def _edges(latents: Latents) -> Float[Tensor, ""]:
    return latents.diff(dim=-1).square().mean() + latents.diff(dim=-2).square().mean()


def _psnr_db(model: Model, batch: Batch, made: Latents, true: Latents) -> float:
    first = batch.first[:, None]
    pictures = [model.vae.decode(torch.cat([first, x], 1))[:, 1:].clamp(-1, 1) for x in (made, true)]
    return float(-10 * ((pictures[0] - pictures[1]).square().mean() / 4).log10())


def _decoded(model: Model, batch: Batch, made: Latents, clip: int) -> tuple[Frames, Frames]:
    """What happened in a clip, and what was dreamt."""
    happened, dreamt = (
        to_frames(model.vae.decode(torch.cat([batch.first[clip, None], latents])[None])[0])
        for latents in (batch.latents[clip], made[clip])
    )
    return happened, dreamt


def _save_sheet(sheet: Path, pairs: list[tuple[Frames, Frames]]) -> None:
    shown = [4 * c for c in SHEET_COLUMNS if 4 * c < len(pairs[0][0])]
    rows = [torch.cat([frames[i] for i in shown], 1) for pair in pairs for frames in pair]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(rows).numpy()).save(sheet)
