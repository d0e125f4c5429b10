"""A judgement for people: a table by the second, a sentence, and a sheet of pictures."""

import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from aapt.evals.departure import Departure, Judgement

MOST_ROWS = 60
SHEET_DRIVES = 5
STRIP_PX = 12  # above the sheet, for the times
COLUMNS = (
    ("psnr_db", "PSNR dB", ".1f"),
    ("ssim", "SSIM", ".2f"),
    ("rotation_error_deg", "rotation deg", ".2f"),
    ("translation_error", "translation m", ".3f"),
    ("sharpness_ratio", "sharpness", ".2f"),
    ("static_ratio", "static", ".2f"),
    ("frechet", "Fréchet (5 s)", ".2f"),
)


def table(departure: Departure) -> str:
    """A row for every second, or for several where there are too many to read."""
    seconds = math.ceil(departure.ssim.shape[1] / departure.latents_per_second / MOST_ROWS)
    lines = ["  ".join(["up to second", *(title for _, title, _ in COLUMNS)])]
    for row in departure.rows(seconds):
        cells = [f"{row['second']:>12g}"]
        for name, title, form in COLUMNS:
            value = row[name]
            cells.append(("-" if value is None else format(value, form)).rjust(len(title)))
        lines.append("  ".join(cells))
    return "\n".join(lines)


def sentence(numbers: dict[str, float]) -> str:
    """The summary as prose."""
    n = numbers
    return (
        f"{n['seconds']:g} s of {n['drives']:g} drives: {n['psnr_first_second_db']:.1f} dB in the first"
        f" second. Over all, a latent's rotation is off by {n['rotation_error_deg']:.2f} deg (the regressor"
        f" itself: {n['regressor_rotation_error_deg']:.2f}), its translation by"
        f" {n['translation_error']:.3f} m ({n['regressor_translation_error_m']:.3f})."
        f" Fréchet distance {n['frechet']:.2f} (between true"
        f" drives: {n['frechet_floor']:.2f}). The picture has {n['sharpness_ratio']:.2f} of the true edges"
        f" (truth through the codec: {n['codec_sharpness_ratio']:.2f}), and stands still in"
        f" {100 * n['static_ratio']:.1f} % of the latents that should move."
    )


def draw_sheet(judgement: Judgement, out: Path) -> None:
    """Times from left to right; for each drive what happened (above) and what was dreamt (below)."""
    drives = torch.stack(judgement.pictures[:SHEET_DRIVES])  # [drives, columns, 2, h, w, 3]
    width = drives.shape[-2]
    rows = drives.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(0, 2)
    sheet = Image.new("RGB", (rows.shape[1], rows.shape[0] + STRIP_PX), "white")
    sheet.paste(Image.fromarray(rows.numpy()), (0, STRIP_PX))
    draw = ImageDraw.Draw(sheet)
    for i, column in enumerate(judgement.columns):
        at_s = column / judgement.departure.latents_per_second
        draw.text((i * width + 2, 0), f"{at_s:.1f} s", fill="black")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
