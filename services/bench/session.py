"""What one session costs: everything that `make play` starts in one process, the player in another.

Every frame goes through gRPC.
"""

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from loadtests.player import Addresses, Player, Script
from loadtests.report import Measurements, Report
from services.bench.running import SAMPLE_S, Running, running

LATENTS_PER_MINUTE = 360


@dataclass(frozen=True)
class Cost:
    """One session for some minutes. Memory is that of all services together, Valkey aside."""

    minutes: float
    start_to_first_frame_s: float
    report: Report
    step_first_minute_s: float
    step_last_minute_s: float
    memory_after_first_minute_mb: float
    memory_growth_mb: float  # from the end of the first minute to the last sample

    def rows(self) -> list[tuple[str, str, str]]:
        """What, what was aimed at, what was measured."""
        report, stages = self.report, self.report.stages_p50_s
        memory = f"{self.memory_after_first_minute_mb:.0f} MB, grew by {self.memory_growth_mb:.1f} MB"
        return [
            ("frames a second", "24.0", f"{report.fps:.2f}"),
            ("frames later than one period", "< 0.1 %", f"{100 * report.late_ratio:.2f} %"),
            ("frames skipped or repeated", "0", str(report.index_gaps)),
            ("control to frame, p50", "", _ms(report.control_to_frame_p50_s)),
            ("control to frame, p95", "< 350 ms", _ms(report.control_to_frame_p95_s)),
            ("step + decode, median", "< 60 ms", _ms(report.step_p50_s + report.decode_p50_s)),
            (
                "moving: control to mailbox, latent to frames, median",
                "< 5 ms",
                _ms(stages["control_path"] + stages["handover"]),
            ),
            ("step, first minute and last", "within 3 %", self._steps()),
            ("memory after the first minute", "grows < 10 MB", memory),
            ("from the command to the first frame", "< 10 s", f"{self.start_to_first_frame_s:.1f} s"),
            *(
                (f"stage: {name.replace('_', ' ')}, median", "", _ms(took_s))
                for name, took_s in stages.items()
            ),
        ]

    def _steps(self) -> str:
        change = self.step_last_minute_s / self.step_first_minute_s - 1
        return f"{_ms(self.step_first_minute_s)}, {_ms(self.step_last_minute_s)} ({100 * change:+.1f} %)"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


async def measure(minutes: float, script: str) -> Cost:
    """Start the services, play, and stop them."""
    started_s = time.monotonic()
    async with running() as service:
        return await _play(service, minutes, script, started_s)


async def _play(service: Running, minutes: float, script: str, started_s: float) -> Cost:
    kept: list[Measurements] = []
    memory_mb: list[float] = []
    first_frame_s: list[float] = []
    progress: tqdm[Any] = tqdm(total=round(minutes * 60 * 24), unit="frame", file=sys.stderr)

    def watch(measured: Measurements) -> None:
        progress.update()
        if not kept:
            kept.append(measured)
            first_frame_s.append(time.monotonic() - started_s)

    sampling = asyncio.create_task(service.sample(memory_mb))
    player = Player(Addresses(service.address, service.address, service.address))
    try:
        report = await player.play(Script.load(script), minutes * 60, on_frame=watch)
    finally:
        sampling.cancel()
        progress.close()
        await player.close()
    steps = kept[0].stages_s["step"]
    after_first_minute = memory_mb[min(len(memory_mb) - 1, round(60 / SAMPLE_S))]
    return Cost(
        minutes=minutes,
        start_to_first_frame_s=round(first_frame_s[0], 2),
        report=report,
        step_first_minute_s=round(statistics.median(steps[:LATENTS_PER_MINUTE]), 5),
        step_last_minute_s=round(statistics.median(steps[-LATENTS_PER_MINUTE:]), 5),
        memory_after_first_minute_mb=round(after_first_minute, 1),
        memory_growth_mb=round(memory_mb[-1] - after_first_minute, 1),
    )
