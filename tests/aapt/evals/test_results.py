"""The page of the ablations says what the scores say."""

import json
from pathlib import Path

import pytest
from PIL import Image

from aapt.checkpoint import untrained
from aapt.evals.cost import measure_cost
from aapt.evals.results import DRIVEN_COLUMNS, write_results
from aapt.presets import DEBUG


def write_score(folder: Path, name: str, seed: int, sharpness: float) -> None:
    seconds = [float(second) for second in range(1, 21)]
    curve = [sharpness] * 10 + [sharpness / 2] * 10
    numbers: dict[str, object] = dict.fromkeys(
        (
            "psnr_first_second_db", "rotation_error_deg", "translation_error", "frechet", "static_ratio",
            "regressor_rotation_error_deg", "regressor_translation_error_m", "frechet_floor",
            "codec_sharpness_ratio",
        ),
        1.0,
    )  # fmt: skip
    numbers |= {"seconds": 20.0, "drives": 8.0, "sharpness_ratio": sharpness}
    numbers["per_second"] = {
        "second": seconds, "sharpness_ratio": curve, "frechet": [None] * 4 + [2.0] * 16,
        "rotation_error_deg": [0.5] * 20,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-{seed}.json").write_text(json.dumps(numbers))


def test_seeds_are_averaged_with_their_spread_and_missing_runs_are_left_out(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    write_score(scores, "consistency", 0, 0.4)
    write_score(scores, "short", 0, 0.5)
    write_score(scores, "short", 1, 0.7)
    cost = {"recycled_ms": 5.0, "diffusion_forcing_ms": 9.5, "ratio": 1.9}
    cost |= {"recycled_gflop": 0.2, "diffusion_forcing_gflop": 0.4}
    (scores / "cost.json").write_text(json.dumps(cost))
    driven = dict.fromkeys((name for name, _, _ in DRIVEN_COLUMNS), 0.25)
    driven |= {"game_on_road_ratio": 0.98, "frechet_floor": 1.8, "seconds": 60.0}
    (scores / "drive").mkdir()
    (scores / "drive" / "short-0.json").write_text(json.dumps(driven))
    write_results(scores, tmp_path / "out" / "results.md")
    page = (tmp_path / "out" / "results.md").read_text()
    (row,) = {line for line in page.splitlines() if line.startswith("| 10 latents")}
    (steered,) = {line for line in page.splitlines() if line.startswith("| stage 3 on 10 latents")}
    assert steered.startswith("| stage 3 on 10 latents, 200 updates | 1 | 0.250 | 0.25 |")
    assert "98.0 % of the frames" in page
    assert "| 2 |" in row
    assert "0.60 ± 0.14" in row  # all along
    assert "0.30 ± 0.07" in row  # the last ten seconds
    assert "1.90 times; the paper says 2" in page
    assert "| teacher-forced adversarial" not in page
    for table in ("stages", "lengths", "student-forcing"):
        with Image.open(tmp_path / "out" / f"results-{table}.png") as drawn:
            assert drawn.width > 500
        assert f"(results-{table}.png)" in page


def test_without_scores_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"aapt\.train\.ablations"):
        write_results(tmp_path, tmp_path / "results.md")


def test_diffusion_forcing_evaluates_twice_for_a_latent() -> None:
    numbers = measure_cost(untrained(DEBUG), repeats=1)
    assert numbers["diffusion_forcing_gflop"] == pytest.approx(2 * numbers["recycled_gflop"], rel=0.01)
    assert numbers["ratio"] > 0
