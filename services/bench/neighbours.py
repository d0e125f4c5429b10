"""What a quiet tenant notices of a loud one: `python -m services.bench.neighbours`.

One player plays throughout. The loud tenant keeps within its quota and takes ten times as much in turns, and
the player's frames and controls are measured in both. With `--tenants` each has a key and a quota; without,
only the engine's own count of seats stands between them.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from aapt.bench.results import RESULTS, keep, machine, table
from livevideo.v1.session_pb2 import OpenRequest
from loadtests.player import Addresses, Player, Script
from loadtests.report import Measurements, percentile
from services.bench.faults import fleet
from services.bench.faults.fleet import Fleet, Size
from services.bench.faults.processes import free_port

QUOTA_SESSIONS = 2
QUOTA_CONTROLS_PER_S = 60.0
# Within its quota, and at ten times: sessions that it wants at once, and controls a second in each.
LOUD = ((QUOTA_SESSIONS, QUOTA_CONTROLS_PER_S / 4), (10 * QUOTA_SESSIONS, 10 * QUOTA_CONTROLS_PER_S))
SETTLED_S = 2.0  # after each change, not measured
PROMISED = 0.10


@dataclass(frozen=True)
class Neighbours:
    """What the quiet one got while the other kept within its quota, and while it did not; in seconds."""

    frames: tuple[int, int]
    gaps: int  # frames that were skipped or came twice, throughout
    interval_p99_s: tuple[float, float]  # between a frame and the next
    control_to_frame_p99_s: tuple[float, float]
    loud: tuple[dict[str, int], dict[str, int]]  # what the loud one was given and refused

    @property
    def moved(self) -> float:
        """By what share the 99th percentile of the frames' intervals rose."""
        within, flooded = self.interval_p99_s
        return flooded / within - 1

    def rows(self) -> list[tuple[str, str, str]]:
        """What, what was aimed at, what was measured."""
        within, flooded = self.interval_p99_s
        obeyed_within, obeyed_flooded = self.control_to_frame_p99_s
        moved = f"{1000 * within:.1f} ms, {1000 * flooded:.1f} ms ({100 * self.moved:+.1f} %)"
        return [
            (
                "between two frames, p99: neighbour within its quota, at ten times",
                "moves 10 % or less",
                moved,
            ),
            (
                "control to frame, p99",
                "",
                f"{1000 * obeyed_within:.0f} ms, {1000 * obeyed_flooded:.0f} ms",
            ),
            ("the neighbour at ten times its quota", "", _counted(self.loud[1])),
        ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


@dataclass
class _Phase:
    """What was measured while the loud one did one thing."""

    intervals_s: list[float]
    controls_s: list[float]
    loud: dict[str, int]


async def measure(running: Fleet, keys: dict[str, str], seconds: float, turns: int) -> Neighbours:
    """`turns` times `seconds` of each."""
    seen: list[Measurements] = []
    where = [running.addresses(kind)[0] for kind in ("sessions", "control", "decoder")]
    player = Player(Addresses(where[0], where[1], where[2], api_key=keys.get("quiet", "")))
    whole_s = 2 * turns * (seconds + SETTLED_S) + 60.0
    playing = asyncio.create_task(
        player.play(
            Script.load("road-lap"), whole_s, wanted=OpenRequest(tenant="quiet"), on_frame=seen.append
        )
    )
    phases = [_Phase([], [], {}), _Phase([], [], {})]
    try:
        while not seen:
            await asyncio.sleep(0.1)
            if playing.done():
                playing.result()
        for _ in range(turns):
            for phase, wanted in zip(phases, LOUD, strict=True):
                await _one_turn(where, keys, seconds, wanted, seen[0], phase)
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        await player.close()
    within, flooded = phases
    return Neighbours(
        (len(within.intervals_s), len(flooded.intervals_s)),
        seen[0].index_gaps,
        (percentile(within.intervals_s, 0.99), percentile(flooded.intervals_s, 0.99)),
        (percentile(within.controls_s, 0.99), percentile(flooded.controls_s, 0.99)),
        (within.loud, flooded.loud),
    )


async def _one_turn(
    where: Sequence[str],
    keys: dict[str, str],
    seconds: float,
    wanted: tuple[int, float],
    measured: Measurements,
    phase: _Phase,
) -> None:
    sessions, controls_per_s = wanted
    with tempfile.NamedTemporaryFile("w") as key:
        key.write(keys.get("loud", ""))
        key.flush()
        loud = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.flood", "--tenant", "loud"),
            *(("--api-key-file", key.name) if keys else ()),
            *("--sessions", where[0], "--control", where[1], "--frames", where[2]),
            *("--sessions-wanted", str(sessions)),
            *("--controls-per-s", str(controls_per_s)),
            *("--seconds", str(seconds + SETTLED_S)),
            stdout=asyncio.subprocess.PIPE,
        )
        await asyncio.sleep(SETTLED_S)
        frames, controls = len(measured.arrivals_s), len(measured.control_to_frame_s)
        said, _ = await loud.communicate()
    phase.intervals_s += [b - a for a, b in pairwise(measured.arrivals_s[frames:])]
    phase.controls_s += measured.control_to_frame_s[controls:]
    for name, count in json.loads(said).items():
        phase.loud[name] = phase.loud.get(name, 0) + count


@asynccontextmanager
async def tenanted(
    are_there: bool, logs: Path, checkpoint: Path
) -> AsyncIterator[tuple[Fleet, dict[str, str]]]:
    """One process of each service, and the keys of two tenants where there are to be any."""
    admin = f"127.0.0.1:{free_port()}"
    settings = {"engine": {"SLOTS": "24"}, "sessions": {"ADMIN_ADDRESS": admin}}
    async with fleet.running(logs, checkpoint, Size(1, 1, 1, 1), settings) as running:
        if not are_there:
            yield running, {}
            return
        quotas = ("--sessions", str(QUOTA_SESSIONS), "--controls-per-s", str(QUOTA_CONTROLS_PER_S))
        yield running, {name: await _added(admin, name, *quotas) for name in ("quiet", "loud")}


async def _added(admin: str, name: str, *quotas: str) -> str:
    """Adds a tenant. Returns its key."""
    command = (sys.executable, "-m", "services.sessions", "tenants", "--admin", admin, "add", name, *quotas)
    adding = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await adding.communicate()
    if adding.returncode:
        raise SystemExit(f"tenant {name} could not be added; what was said is above")
    return said.decode().strip()


async def _measured(options: argparse.Namespace) -> Neighbours:
    async with tenanted(options.tenants, options.logs, options.checkpoint) as (running, keys):
        return await measure(running, keys, options.seconds, options.turns)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m services.bench.neighbours",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=3, help="of each kind")
    parser.add_argument("--tenants", action="store_true", help="with keys and quotas")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--logs", type=Path, default=Path("out/neighbours"), help="what each process says")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the numbers in --out")
    options = parser.parse_args()
    if options.seconds <= 0 or options.turns < 1:
        parser.error("seconds must be above 0, and turns 1 or more")
    measured = asyncio.run(_measured(options))
    if options.keep:
        keep("neighbours", asdict(measured), options.out)
    print(table(f"{machine()}, two tenants", measured.rows()), end="\n\n")
    print(json.dumps({**asdict(measured), "moved": round(measured.moved, 4)}))
    return 0 if measured.moved <= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
