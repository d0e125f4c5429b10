"""The services as a process of their own, started and stopped by whoever measures them."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

READY_S = 60.0
SAMPLE_S = 5.0


@dataclass(frozen=True)
class Running:
    """A process that serves."""

    pid: int
    address: str  # host:port of every gRPC service

    async def sample(self, memory_mb: list[float]) -> None:
        """Its memory every five seconds, without end."""
        while True:
            memory_mb.append(self.resident_mb())
            await asyncio.sleep(SAMPLE_S)

    def resident_mb(self) -> float:
        """Memory that it holds now. 0 where there is no /proc."""
        status = Path(f"/proc/{self.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


@asynccontextmanager
async def running(*options: str, **variables: str) -> AsyncIterator[Running]:
    """`services.play` on free ports, for as long as the block lasts. variables: of its environment."""
    port, page_port = _free_ports()
    with tempfile.TemporaryFile() as said:
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.play", "--no-browser"),
            *("--grpc-port", str(port), "--web-port", str(page_port), *options),
            stdout=said,
            env={**os.environ, **variables},
        )
        try:
            await _until_open("127.0.0.1", port)
            yield Running(service.pid, f"127.0.0.1:{port}")
        finally:
            service.terminate()
            await service.wait()


async def _until_open(host: str, port: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
