"""What a session costs on this machine: `make bench`, or `python -m services.bench --minutes 1`.

Everything that `make play` starts runs in one process, the player in this one; every frame goes through gRPC.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from loadtests.player import Addresses, Player, Script
from loadtests.report import Measurements, Report

SAMPLE_S = 5.0
LATENTS_PER_MINUTE = 360
READY_S = 60.0


@dataclass(frozen=True)
class Cost:
    """One session for some minutes. Memory is that of all services together, Valkey aside."""

    machine: str
    minutes: float
    start_to_first_frame_s: float
    report: Report
    step_first_minute_s: float
    step_last_minute_s: float
    memory_after_first_minute_mb: float
    memory_growth_mb: float  # from the end of the first minute to the last sample

    def table(self) -> str:
        """As the README shows it."""
        report, stages = self.report, self.report.stages_p50_s
        memory = f"{self.memory_after_first_minute_mb:.0f} MB, grew by {self.memory_growth_mb:.1f} MB"
        rows = [
            ("frames a second", "24.0", f"{report.fps:.2f}"),
            ("frames later than one period", "< 0.1 %", f"{100 * report.late_ratio:.2f} %"),
            ("frames skipped or repeated", "0", str(report.index_gaps)),
            ("control to frame, p50", "", _ms(report.control_to_frame_p50_s)),
            ("control to frame, p95", "< 350 ms", _ms(report.control_to_frame_p95_s)),
            ("step + decode, median", "< 60 ms", _ms(report.step_p50_s + report.decode_p50_s)),
            ("step, first minute and last", "within 3 %", self._steps()),
            ("memory after the first minute", "grows < 10 MB", memory),
            ("from the command to the first frame", "< 10 s", f"{self.start_to_first_frame_s:.1f} s"),
            *(
                (f"stage: {name.replace('_', ' ')}, median", "", _ms(took_s))
                for name, took_s in stages.items()
            ),
        ]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join(
            [f"| {self.machine}, {self.minutes:g} min | target | measured |", "|---|---|---|", *lines]
        )

    def _steps(self) -> str:
        change = self.step_last_minute_s / self.step_first_minute_s - 1
        return f"{_ms(self.step_first_minute_s)}, {_ms(self.step_last_minute_s)} ({100 * change:+.1f} %)"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


async def measure(minutes: float, script: str) -> Cost:
    """Start the services, play, and stop them."""
    port, page_port = _free_ports()
    started_s = time.monotonic()
    with tempfile.TemporaryFile() as said:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.play", "--no-browser"),
            *("--grpc-port", str(port), "--web-port", str(page_port)),
            stdout=said,
        )
        try:
            return await _play(service.pid, f"127.0.0.1:{port}", minutes, script, started_s)
        finally:
            service.terminate()
            await service.wait()


async def _play(pid: int, address: str, minutes: float, script: str, started_s: float) -> Cost:
    await _until_open(address)
    kept: list[Measurements] = []
    memory_mb: list[float] = []
    first_frame_s: list[float] = []
    progress: tqdm[Any] = tqdm(total=round(minutes * 60 * 24), unit="frame", file=sys.stderr)

    def watch(measured: Measurements) -> None:
        progress.update()
        if not kept:
            kept.append(measured)
            first_frame_s.append(time.monotonic() - started_s)

    sampling = asyncio.create_task(_sample(pid, memory_mb))
    player = Player(Addresses(address, address, address))
    try:
        report = await player.play(Script.load(script), minutes * 60, on_frame=watch)
    finally:
        sampling.cancel()
        progress.close()
        await player.close()
    steps = kept[0].stages_s["step"]
    after_first_minute = memory_mb[min(len(memory_mb) - 1, round(60 / SAMPLE_S))]
    return Cost(
        machine=f"{_processor()}, {os.cpu_count()} cores",
        minutes=minutes,
        start_to_first_frame_s=round(first_frame_s[0], 2),
        report=report,
        step_first_minute_s=round(statistics.median(steps[:LATENTS_PER_MINUTE]), 5),
        step_last_minute_s=round(statistics.median(steps[-LATENTS_PER_MINUTE:]), 5),
        memory_after_first_minute_mb=round(after_first_minute, 1),
        memory_growth_mb=round(memory_mb[-1] - after_first_minute, 1),
    )


async def _until_open(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def _sample(pid: int, memory_mb: list[float]) -> None:
    while True:
        memory_mb.append(_resident_mb(pid))
        await asyncio.sleep(SAMPLE_S)


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status")  # Linux; elsewhere memory reads 0
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--script", default="road-lap")
    parser.add_argument("--out", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    cost = asyncio.run(measure(options.minutes, options.script))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(asdict(cost), indent=1) + "\n")
    print(cost.table())


if __name__ == "__main__":
    main()
