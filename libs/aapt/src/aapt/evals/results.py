"""The ablations as a page: tables and plots of the scores that `aapt.train.ablations` has left."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from aapt import figures

Scores = dict[str, float]
COLUMNS = (
    ("psnr_first_second_db", "first second, dB", 1),
    ("rotation_error_deg", "rotation, deg", 2),
    ("translation_error", "translation, m", 3),
    ("frechet", "Fréchet", 2),
    ("sharpness_ratio", "sharpness", 2),
    ("sharpness_last", "the same, last 10 s", 2),
    ("static_ratio", "static", 3),
)
DRIVEN_COLUMNS = (
    ("on_road_ratio", "on the road", 3),
    ("rotation_error_deg", "rotation, deg", 2),
    ("translation_error", "translation, m", 3),
    ("turn_ratio", "turn, of the game's", 2),
    ("sharpness_ratio", "sharpness", 2),
    ("static_ratio", "static", 3),
    ("frechet", "Fréchet", 1),
)
DRIVEN_ROWS = (
    ("diffusion-one-step", "stage 1, one step"),
    ("consistency", "stage 2"),
    ("short", "stage 3 on 10 latents, 200 updates"),
    ("teacher-forced", "the same, teacher-forced"),
    ("medium", "stage 3 on 18 latents, 200 updates"),
    ("unrecycled", "stage 3 on 50 latents without recycling, 200 updates"),
    ("long", "stage 3 on 50 latents, 200 updates"),
    ("aapt", "the same, 1,000 updates"),
    ("whole", "an anchor, 4 clips"),
    ("unsighted", "an anchor, 48 clips"),
    ("shipped", "shipped: then by sight"),
)
CURVES = (
    ("sharpness_ratio", "sharpness against the truth"),
    ("frechet", "Fréchet distance, last 5 s"),
    ("rotation_error_deg", "rotation error, deg a latent"),
)
LAST_S = 10


@dataclass(frozen=True)
class Table:
    """One question, and the runs that answer it, by the names of their scores."""

    name: str
    title: str
    question: str
    rows: tuple[tuple[str, str], ...]


TABLES = (
    Table(
        "stages", "What each stage brings",
        "Stage 1 sampled with many steps, then with one; stage 2; stage 3 on its longest rollouts, as in"
        " the paper. The next rows are of chains that begin with a bidirectional model, with drives that"
        " leave the road, an anchor and exchanged keys: 400 updates on four clips each; 140 on 48 clips, two"
        " segments of each; and the shipped checkpoint, which went on from those in worlds that are driven by"
        " sight. The last row is no dream: the game itself under the same keys, on tracks that they were not"
        " meant for. A dream makes up its road, so this is what obedience comes to.",
        (("diffusion", "stage 1, 8 steps a latent"), ("diffusion-one-step", "stage 1, one step"),
         ("consistency", "stage 2, one step"), ("long", "stage 3, 200 updates"),
         ("aapt", "stage 3, 1,000 updates"), ("whole", "an anchor, 4 clips"),
         ("unsighted", "an anchor, 48 clips"), ("shipped", "shipped: then by sight"),
         ("elsewhere", "the game on other tracks")),
    ),
    Table(
        "lengths", "How long it is trained on what it made itself (the paper's Table 5)",
        "No extension, one, five; as many updates on as many clips. The paper's long rollouts win by far.",
        (("consistency", "not at all"), ("short", "10 latents, 1.7 s"),
         ("medium", "18 latents, 3 s"), ("long", "50 latents, 8.3 s")),
    ),
    Table(
        "student-forcing", "Student forcing, teacher forcing, recycling (the paper's appendices D and E)",
        "The paper: teacher-forced adversarial training fails within a few frames, and without recycling"
        " there is no large motion. Stage 3 has as many updates in all rows, on 10 latents for the first"
        " two, on up to 50 for the others. A quarter of the clips is late, but for teacher forcing, which"
        " plays nothing. The network without recycling got used to it in 300 more steps of stage 1 and 100 of"
        " stage 2.",
        (("short", "AAPT, 10 latents"), ("teacher-forced", "teacher-forced adversarial, 10 latents"),
         ("long", "AAPT, 50 latents"), ("unrecycled", "no recycling, 50 latents")),
    ),
)  # fmt: skip


def write_results(scores: Path, out: Path) -> None:
    """Write `out` (Markdown) and its plots beside it, results-NAME.png for each table.

    What people have read in the numbers, `READING.md` beside the scores, comes last.

    Raises FileNotFoundError, naming the command that makes them, where there are no scores.
    """
    found = _read(scores)
    if not found:
        raise FileNotFoundError(
            f"no scores in {scores}; make some with: python -m aapt.train.ablations --scores {scores}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = [_introduction(found, scores)]
    for table in TABLES:
        rows = [(name, label) for name, label in table.rows if name in found]
        if rows:
            _plot(rows, found, out.parent / f"results-{table.name}.png")
            parts.append(_section(table, rows, found))
    if driven := _read(scores / "drive"):
        parts.append(_driven(driven))
    if (scores / "cost.json").exists():
        parts.append(_cost(json.loads((scores / "cost.json").read_text())))
    if (scores / "READING.md").exists():
        parts.append((scores / "READING.md").read_text().strip())
    out.write_text("\n\n".join(parts) + "\n")


def _read(scores: Path) -> dict[str, list[dict[str, object]]]:
    """NAME-SEED.json, gathered by name; seeds in order."""
    found: dict[str, list[dict[str, object]]] = {}
    for path in sorted(scores.glob("*-[0-9]*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
    return found


def _introduction(found: dict[str, list[dict[str, object]]], scores: Path) -> str:
    run = next(iter(found.values()))[0]
    return (
        "# What each part of the recipe brings\n\n"
        f"Dreams of {run['seconds']:g} s on {run['drives']:g} drives that were not trained on, under the"
        " keys of the recording. Where there are several seeds: mean ± standard deviation. What the columns"
        " mean is said in `aapt/evals/departure.py`; the motion that is judged is read off the frames by a"
        f" small network, which itself errs by {run['regressor_rotation_error_deg']:g} degrees and"
        f" {run['regressor_translation_error_m']:g} m a latent. The Fréchet distance between true drives is"
        f" {run['frechet_floor']:.2f}, and the codec alone leaves {run['codec_sharpness_ratio']:.2f} of the"
        " sharpness.\n\n"
        "Made by `python -m aapt.train.ablations` (hours; it says what it runs), and"
        f" `python -m aapt.evals results --scores {scores}` (this page)."
    )


def _section(table: Table, rows: Sequence[tuple[str, str]], found: dict[str, list[dict[str, object]]]) -> str:
    lines = [
        f"## {table.title}",
        "",
        table.question,
        "",
        "| | seeds | " + " | ".join(title for _, title, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    lines += [_row(label, found[name], COLUMNS) for name, label in rows]
    return "\n".join([*lines, "", f"![{table.title}](results-{table.name}.png)"])


def _driven(found: dict[str, list[dict[str, object]]]) -> str:
    rows = [(name, label) for name, label in DRIVEN_ROWS if name in found]
    run = _flat_numbers(next(iter(found.values()))[0])
    return "\n".join(
        [
            "## Driven by one who looks",
            "",
            "The keys of a recording were meant for its road; a dream makes up its own. Here a driver sees"
            " the dreamt frames and nothing else, steers by them, and the motion is held against that of the"
            " game's own car under the keys that were pressed (`aapt/evals/driving.py`;"
            f" `python -m aapt.evals drive`, {run['seconds']:g} s). The game driven so is on its road in"
            f" {100 * run['game_on_road_ratio']:.1f} % of the frames, and two halves of its drives are"
            f" {run['frechet_floor']:.1f} apart.",
            "",
            "| | seeds | " + " | ".join(title for _, title, _ in DRIVEN_COLUMNS) + " |",
            "|---" * (len(DRIVEN_COLUMNS) + 2) + "|",
            *(_row(label, found[name], DRIVEN_COLUMNS) for name, label in rows),
        ]
    )


def _row(label: str, runs: Sequence[dict[str, object]], columns: Sequence[tuple[str, str, int]]) -> str:
    numbers = [_flat_numbers(run) for run in runs]
    cells = [_cell([run[column] for run in numbers], digits) for column, _, digits in columns]
    return f"| {label} | {len(runs)} | " + " | ".join(cells) + " |"


def _cost(cost: Scores) -> str:
    return (
        "## What a latent costs with a recycled input, and without (the paper's figure 2)\n\n"
        "One-step diffusion forcing evaluates twice for a latent: the noisy one, then the clean one, whose"
        " keys and values it keeps. With the shipped checkpoint, in turn on one machine, medians:\n\n"
        "| | GFLOP a latent | ms a latent |\n|---|---|---|\n"
        f"| recycled input (ours) | {cost['recycled_gflop']:.3f} | {cost['recycled_ms']:.1f} |\n"
        f"| one-step diffusion forcing | {cost['diffusion_forcing_gflop']:.3f} |"
        f" {cost['diffusion_forcing_ms']:.1f} |\n\n"
        f"{cost['ratio']:.2f} times; the paper says 2. (`python -m aapt.evals cost`)"
    )


def _flat_numbers(run: dict[str, object]) -> Scores:
    numbers: Scores = {name: value for name, value in run.items() if isinstance(value, int | float)}
    if "per_second" in run:
        last = _curve(run, "sharpness_ratio")[-LAST_S:]
        numbers["sharpness_last"] = statistics.mean(value for _, value in last)
    return numbers


def _cell(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _curve(run: dict[str, object], name: str) -> list[tuple[float, float]]:
    by_second = run["per_second"]
    assert isinstance(by_second, dict)
    pairs = zip(by_second["second"], by_second[name], strict=True)
    return [(second, value) for second, value in pairs if value is not None]


def _plot(rows: Sequence[tuple[str, str]], found: dict[str, list[dict[str, object]]], out: Path) -> None:
    figure, axes = plt.subplots(1, len(CURVES), figsize=(15, 4))
    for axis, (curve, title) in zip(axes, CURVES, strict=True):
        for colour, (name, label) in enumerate(rows):
            for i, run in enumerate(found[name]):
                line = _curve(run, curve)
                axis.plot(*zip(*line, strict=True), color=f"C{colour}", label=None if i else label, alpha=0.8)
        axis.set(title=title, xlabel="second", ylim=(0, None))
    axes[0].legend(fontsize="small", framealpha=0.5)
    figures.save(figure, out)
