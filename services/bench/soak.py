"""A long while of sessions that come and go, some of them without a word: does memory stay flat?"""

import asyncio
import random
import statistics
import sys
import time
from dataclasses import dataclass

import grpc
from tqdm import tqdm

from livevideo.v1.session_pb2 import OpenRequest
from livevideo_client.comeback import Silence
from loadtests.player import Addresses, Player, Script
from loadtests.report import Report
from services.bench.running import Running, running

PLAYERS = 3
STAY_S = 20.0  # in the mean
VANISHING = 0.2  # the share that closes nothing


@dataclass(frozen=True)
class Soak:
    """What came of it. Memory is that of all services together, Valkey aside, every five seconds.

    growth_mb: from the second sixth of the time to the last; the first fills caches and pools.
    """

    minutes: float
    sessions: int
    vanished: int
    refused: int
    frames: int
    deadline_hit: float
    index_gaps: int
    memory_mb: list[float]
    growth_mb: float

    def rows(self) -> list[tuple[str, str, str]]:
        """What, what was aimed at, what was measured."""
        return [
            ("sessions, of them vanished, refused", "", f"{self.sessions}, {self.vanished}, {self.refused}"),
            ("frames in time", "99.9 %", f"{100 * self.deadline_hit:.2f} %"),
            ("frames skipped or repeated", "0", str(self.index_gaps)),
            ("memory", "flat", f"{self.memory_mb[-1]:.0f} MB, grew by {self.growth_mb:.1f} MB"),
        ]


async def soak(minutes: float, script: str, seed: int = 0) -> Soak:
    """Three players at a time for so long."""
    reports: list[Report] = []
    counts = {"sessions": 0, "vanished": 0, "refused": 0}
    chance = random.Random(seed)

    async def keep_coming(service: Running, ends_at_s: float) -> None:
        while (left_s := ends_at_s - time.monotonic()) > 0:
            stay_s = min(left_s, max(2.0, chance.expovariate(1 / STAY_S)))
            vanishes = chance.random() < VANISHING
            counts["sessions"] += 1
            counts["vanished"] += vanishes
            try:
                reports.extend(await _come_and_go(service.address, stay_s, script, vanishes))
            except (grpc.aio.AioRpcError, Silence):
                counts["refused"] += 1
                await asyncio.sleep(1.0)

    async with running("--slots", str(2 * PLAYERS)) as service:
        memory_mb: list[float] = []
        sampling = asyncio.create_task(service.sample(memory_mb))
        ends_at_s = time.monotonic() + 60 * minutes
        progress = asyncio.create_task(_count_down(ends_at_s))
        await asyncio.gather(*(keep_coming(service, ends_at_s) for _ in range(PLAYERS)))
        for task in (sampling, progress):
            task.cancel()
    frames = sum(report.frames for report in reports)
    sixth = max(1, len(memory_mb) // 6)
    return Soak(
        minutes=minutes,
        **counts,
        frames=frames,
        deadline_hit=round(1 - sum(r.late_ratio * r.frames for r in reports) / max(1, frames), 6),
        index_gaps=sum(report.index_gaps for report in reports),
        memory_mb=[round(each, 1) for each in memory_mb],
        growth_mb=round(
            statistics.median(memory_mb[-sixth:]) - statistics.median(memory_mb[sixth : 2 * sixth]), 1
        ),
    )


async def _come_and_go(address: str, stay_s: float, script: str, vanishes: bool) -> list[Report]:
    player = Player(Addresses(address, address, address))
    playing = asyncio.create_task(player.play(Script.load(script), stay_s, wanted=OpenRequest()))
    if vanishes:
        await asyncio.wait([playing], timeout=stay_s)
        if playing.done():  # it was refused, which is raised here
            return [playing.result()]
        await player.close()  # what was open breaks off
        await asyncio.gather(playing, return_exceptions=True)
        return []
    try:
        return [await playing]
    finally:
        await player.close()


async def _count_down(ends_at_s: float) -> None:
    seconds = round(ends_at_s - time.monotonic())
    for _ in tqdm(range(seconds), desc="soaking", unit="s", file=sys.stderr, mininterval=10):
        await asyncio.sleep(1.0)
