"""What sessions cost on this machine: `make bench`, or `python -m services.bench --minutes 1`.

One session for some minutes, then crowds. Nothing else should run meanwhile. Prints tables and keeps the
numbers in bench/results.json; `python -m services.bench.plots` draws them.
"""

import argparse
import asyncio
from dataclasses import asdict
from pathlib import Path

from aapt.bench.results import RESULTS, keep, machine, table
from loadtests.crowd import Outcome, play_together
from loadtests.player import Addresses, Script
from services.bench.running import running
from services.bench.session import measure
from services.bench.soak import soak

SLOTS = 24  # more than there is time for: what is held is decided by what was measured


async def crowds(sizes: list[int], seconds: float, script: str) -> list[Outcome]:
    """A fresh start for each crowd."""
    outcomes = []
    for players in sizes:
        async with running("--slots", str(SLOTS)) as service:
            addresses = Addresses(service.address, service.address, service.address)
            outcomes.append(await play_together(addresses, players, seconds, Script.load(script)))
    return outcomes


def rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    """What, what was aimed at, what was measured."""
    refused = ", ".join(f"{count} {reason}" for reason, count in outcome.refused.items()) or "nobody"
    return [
        (f"{outcome.asked} players: seated, refused", "", f"{outcome.seated}, {refused}"),
        (
            f"{outcome.asked} players: frames in time, control to frame p95",
            "99.9 %",
            f"{100 * outcome.deadline_hit:.2f} %, {1000 * outcome.control_to_frame_p95_s:.0f} ms",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the one session; 0: none")
    parser.add_argument("--crowds", type=int, nargs="*", default=[1, 2, 4, 8, 12, 16], help="players at once")
    parser.add_argument("--crowd-seconds", type=float, default=60.0)
    parser.add_argument("--soak-minutes", type=float, default=0.0, help="of sessions that come and go")
    parser.add_argument("--script", default="road-lap")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if min(options.crowds, default=1) < 1 or min(options.minutes, options.soak_minutes) < 0:
        parser.error("crowds are of 1 player or more, and minutes 0 or more")
    if options.minutes:
        cost = asyncio.run(measure(options.minutes, options.script))
        keep("session", asdict(cost), options.out)
        print(table(f"{machine()}, one session, {options.minutes:g} min", cost.rows()), end="\n\n")
    if options.crowds:
        outcomes = asyncio.run(crowds(options.crowds, options.crowd_seconds, options.script))
        keep("crowds", {"seconds": options.crowd_seconds, "outcomes": [*map(asdict, outcomes)]}, options.out)
        named = f"{machine()}, crowds, {options.crowd_seconds:g} s"
        print(table(named, [row for outcome in outcomes for row in rows(outcome)]), end="\n\n")
    if options.soak_minutes:
        soaked = asyncio.run(soak(options.soak_minutes, options.script))
        keep("soak", asdict(soaked), options.out)
        print(table(f"{machine()}, soak of {options.soak_minutes:g} min", soaked.rows()), end="\n\n")


if __name__ == "__main__":
    main()
