"""What players notice when services die: `make faults`, or `python -m services.bench.faults --kills 20`.

Starts every service as processes of their own, lets players play, and strikes: scenario after scenario, in
turn, until enough was killed. Prints a table, then one line of JSON. What was random in a run comes from its
seed, which stands beside what failed: `--scenario NAME --seed SEED --runs 1 --kills 0` does it again.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve the others

import torch

from aapt.bench.results import RESULTS, keep, machine
from services.bench.faults import fleet, report
from services.bench.faults.scenarios import Scenario, named
from services.bench.faults.stage import Outcome, Stage
from services.engine.model import load

# Where others use the machine too, steps and pictures take so long that there would be no spare seats.
SETTINGS = {"engine": {"HEADROOM": "1.0"}, "decoder": {"HEADROOM": "1.0", "CODEC_THREADS": "2"}}


def turns(scenarios: list[Scenario], kills: int, runs: int) -> Iterator[Scenario]:
    """Each scenario `runs` times, in turns; then those that kill, until `kills` are reached."""
    killed = 0
    for scenario in itertools.chain.from_iterable([scenarios] * runs):
        killed += scenario.kills
        yield scenario
    for scenario in itertools.cycle([each for each in scenarios if each.kills]):
        if killed >= kills:
            return
        killed += scenario.kills
        yield scenario


async def strike(options: argparse.Namespace, scenarios: list[Scenario], outcomes: list[Outcome]) -> None:
    """All runs, one after the other, on one fleet; what each came to is appended to `outcomes`."""
    model = load(options.checkpoint)
    async with fleet.running(options.logs, options.checkpoint, fleet.Size(), SETTINGS) as running:
        for number, scenario in enumerate(turns(scenarios, options.kills, options.runs)):
            await running.mended()
            outcome = await Stage(running, scenario, options.seed + number, options.players, model).play()
            outcomes.append(outcome)
            print(_line(outcome), file=sys.stderr, flush=True)


def _line(outcome: Outcome) -> str:
    said = "kept" if outcome.is_kept else f"BROKEN {json.dumps(asdict(outcome))}"
    return f"seed {outcome.seed}: {outcome.scenario}: pause {outcome.pause_s:.2f} s: {said}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m services.bench.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=5, help="of each scenario")
    parser.add_argument("--kills", type=int, default=200, help="then go on until so many were killed")
    parser.add_argument("--scenario", action="append", default=[], help="a part of a name; may be repeated")
    parser.add_argument(
        "--players", type=int, default=2, help="the first is struck, the others are beside it"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each next one has the next")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--logs", type=Path, default=Path("out/faults"), help="what each process says")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the numbers in --out")
    options = parser.parse_args()
    try:
        scenarios = named(options.scenario)
    except ValueError as error:
        parser.error(str(error))
    if options.players < 1 or min(options.kills, options.runs) < 0 or not (options.kills or options.runs):
        parser.error("players are 1 or more, kills and runs 0 or more, and one of them more")
    if options.kills and not sum(each.kills for each in scenarios):
        parser.error("these scenarios kill nothing; say --kills 0 and how many --runs")
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    with suppress(KeyboardInterrupt):  # who has seen enough is told what came of it
        asyncio.run(strike(options, scenarios, outcomes))
    totals = report.summary(outcomes)
    if options.keep:
        keep("faults", {"machine": machine(), **totals, "outcomes": [*map(asdict, outcomes)]}, options.out)
    print(report.table(outcomes), end="\n\n")
    print(json.dumps(totals))
    return 0 if all(outcome.is_kept for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
