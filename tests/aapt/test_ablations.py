"""Each ablation is a command that anybody could type, and begins where another ended."""

from pathlib import Path

import pytest

from aapt.presets import DEBUG
from aapt.train import bench
from aapt.train.ablations import RUNS, SHARED
from aapt.train.options import parser


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_a_run_is_a_command_of_the_recipe_that_goes_on_from_an_earlier_one(run: object) -> None:
    names = [each.name for each in RUNS]
    (chosen,) = (each for each in RUNS if each is run)
    shared = ["--preset", "road", "--data", "data/road", "--codec", "runs/codec"]
    options = parser().parse_args(chosen.command(Path("runs"), shared, seed=3)[3:])
    assert options.command == chosen.stage
    assert options.run == Path("runs/ablations") / f"{chosen.name}-3"
    before = {*SHARED, *names[: names.index(chosen.name)]}
    assert {chosen.init, chosen.adapted or chosen.init} <= before
    assert options.init == Path("runs") / (
        chosen.init if chosen.init in SHARED else f"ablations/{chosen.init}-3"
    )
    assert (chosen.adapted is not None) == (chosen.stage == "adversarial")
    # A network is trained without recycling from its first stage to its last.
    assert options.recycling == (not chosen.name.startswith("unrecycled"))


def test_the_clock_of_the_stages_names_every_part() -> None:
    numbers = bench.measure(DEBUG, repeats=1)
    assert len(numbers) == 7
    assert all(seconds > 0 for seconds in numbers.values())
