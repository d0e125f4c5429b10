"""How many players the services hold: `make load`, or `python -m services.bench.load --seconds 60`.

Every service runs as a process of its own on loopback. Without more, forty sessions of a model that costs
nothing are played, so that only what stands around the networks is measured; exits 0 where the added latency
of the frames is below 30 ms (p99), no frame was late by two periods, every SLO was kept, and /metrics of a
process with a hundred tenants was read within 50 ms. The last line is JSON.

    make load ARGS="--staircase"            # the shipped model, by more and more players, until an SLO breaks
    make load ARGS="--staircase --null"     # the same with the model that costs nothing
    make load ARGS="--visitors"             # Locust: players who come and go, some slow, some vanishing

Where others use the machine, `chrt -r 10 make load` measures as if they did not, at their expense.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve the others

import uvloop

from aapt.bench.results import RESULTS, keep
from loadtests.player import Script
from services import app
from services.bench.load.scraping import PROMISED_S, scrape
from services.bench.load.standing import standing
from services.bench.load.steps import Step, held, staircase, step

PROMISED_P99_S = 0.03
SIZES = {
    "road": (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24),
    "null": (20, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 200, 240),
}
STEP_S = 45.0
LOCUSTFILE = Path("loadtests/locustfile.py")


async def alone(options: argparse.Namespace) -> int:
    """The control plane alone."""
    async with standing("null", options.checkpoint, options.logs, options.phases) as services:
        taken = await step(services, "null", options.sessions, options.seconds, Script.load(options.script))
    scraped = scrape()
    not_kept = taken.broken
    if taken.measured.added_latency_p99_s >= PROMISED_P99_S:
        not_kept.append(f"added latency p99 {1000 * taken.measured.added_latency_p99_s:.1f} ms")
    if taken.measured.late_by_two:
        not_kept.append(f"{taken.measured.late_by_two} frames late by two periods")
    if scraped["p99_s"] >= PROMISED_S:
        not_kept.append(f"/metrics p99 {1000 * scraped['p99_s']:.0f} ms")
    numbers = {**taken.numbers(), "not_kept": not_kept, "metrics": scraped, "is_real_time": _is_real_time()}
    if options.keep:
        keep("load", numbers, options.out)
    _tell(not_kept)
    print(json.dumps(numbers))
    return 1 if not_kept else 0


async def climb(options: argparse.Namespace) -> int:
    """More and more players, until they no longer have what was promised."""
    from services.bench.load import report  # matplotlib, which is not installed everywhere

    model = "null" if options.null else "road"
    sizes = options.sizes or SIZES[model]
    steps: list[Step] = []
    async with standing(model, options.checkpoint, options.logs, options.phases) as services:
        async for taken in staircase(services, model, sizes, options.seconds, Script.load(options.script)):
            steps.append(taken)
            print(_line(taken), file=sys.stderr, flush=True)
    numbers = {
        "held": held(steps),
        "seconds": options.seconds,
        "is_real_time": _is_real_time(),
        "command": " ".join(sys.argv[1:]),
        "steps": [each.numbers() for each in steps],
    }
    print(report.table(numbers["steps"]), end="\n\n")
    if options.keep:
        keep(f"load_staircase_{model}", numbers, options.out)
        report.write(json.loads(options.out.read_text()), options.docs)
    last = numbers["steps"][-1]
    print(json.dumps({name: numbers[name] for name in ("held", "seconds", "is_real_time")} | {"last": last}))
    return 0 if numbers["held"] else 1


async def receive(options: argparse.Namespace) -> int:
    """Players who come and go, by Locust, which says what became of them and how it ends."""
    model = "null" if options.null else "road"
    async with standing(model, options.checkpoint, options.logs, options.phases) as services:
        where = services.addresses
        locust = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
            *("--sessions", where.sessions, "--control", where.control, "--frames", where.frames),
            *("--loglevel", "WARNING", "--last-s", str(options.seconds), *options.locust),
        )
        try:
            ended = await locust.wait()
        finally:
            if locust.returncode is None:
                locust.send_signal(signal.SIGTERM)
                await locust.wait()
    return ended


def _tell(not_kept: Sequence[str]) -> None:
    print("not kept: " + "; ".join(not_kept) if not_kept else "kept", file=sys.stderr)


def _line(taken: Step) -> str:
    seen = taken.measured
    said = "; ".join(taken.broken) or "held"
    return (
        f"{seen.players} players: {100 * seen.deadline_hit:.2f} % of frames in time, control to frame p95"
        f" {1000 * seen.control_to_frame_p95_s:.0f} ms, {sum(taken.cores.values()):.2f} cores: {said}"
    )


def _is_real_time() -> bool:
    return os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)


def chosen(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a sentence and the end of the process for what cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m services.bench.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--staircase", action="store_true", help="more and more players, until an SLO breaks")
    kinds.add_argument("--visitors", action="store_true", help="by Locust, who come and go")
    parser.add_argument("--null", action="store_true", help="with the model that costs nothing")
    parser.add_argument("--sessions", type=int, default=40, help="of the control plane alone")
    parser.add_argument("--sizes", type=int, nargs="+", help="the steps of the staircase")
    parser.add_argument(
        "--phases",
        type=int,
        default=0,
        help="of the engine: in so many groups sessions step (default: its own; 7 with the null model)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help=f"default: 60, and {STEP_S:g} for each step")
    length.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument("--script", default="road-lap", help="a name in loadtests/scripts, or a path")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--logs", type=Path, default=Path("out/load"), help="what each process says")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where --keep writes load.md")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--keep", action="store_true", help="keep the numbers in --out, and pictures in --docs"
    )
    parser.add_argument("locust", nargs="*", help="with --visitors, after --: more options of Locust")
    options = parser.parse_args(words)
    if options.minutes is not None:
        options.seconds = 60 * options.minutes
    elif options.seconds is None:
        options.seconds = STEP_S if options.staircase else 60.0
    if not 5 <= options.seconds <= 86_400:
        parser.error(f"{options.seconds:g} seconds were asked for; it must be 5 to 86400")
    most = 1000
    if not all(1 <= each <= most for each in (options.sessions, *(options.sizes or ()))):
        parser.error(f"sessions and sizes are from 1 to {most}")
    if not 0 <= options.phases <= most:
        parser.error(f"phases are from 1 to {most}, or 0 for the default")
    if options.locust and not options.visitors:
        parser.error(f"{options.locust[0]} is an option of Locust, which runs with --visitors")
    if not (options.checkpoint / "vae.safetensors").exists():
        parser.error(f"there is no checkpoint in {options.checkpoint}")
    return options


def main() -> int:
    options = chosen()
    app.set_in_stone()  # a pause of the players would be taken for one of the services
    kind = climb if options.staircase else receive if options.visitors else alone
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(kind(options))


if __name__ == "__main__":
    sys.exit(main())
