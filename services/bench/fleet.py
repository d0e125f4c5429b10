"""`Fleet`: the services as processes of their own, which may be killed, stopped and started again."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from livevideo.v1.session_pb2 import ListModelsRequest
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services.app import open_channel
from services.sessions.embedded import EmbeddedValkey

READY_S = 90.0


@dataclass
class Member:
    """One process."""

    service: str  # e.g. "engine"
    name: str  # e.g. "engine-1"
    address: str
    environment: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """As after a crash: on the same port, under the same name."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"services.{self.service}"),
                env={
                    **os.environ,
                    **dict.fromkeys(("ADDRESS", "INTERNAL_ADDRESS"), self.address),
                    **self.environment,
                },
                stderr=log,
            )

    def strike(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Until it is gone, stopped or not."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            if number is not signal.SIGCONT:
                await self.process.wait()


@dataclass
class Fleet:
    """All members, by name."""

    members: dict[str, Member] = field(default_factory=dict)

    def addresses(self, service: str) -> list[str]:
        """Of all members of one service."""
        return [member.address for member in self.members.values() if member.service == service]

    async def until_open(self, member: Member) -> None:
        """Until it takes connections, which an engine does once it could seat somebody."""
        host, _, port = member.address.rpartition(":")
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return


@asynccontextmanager
async def running(
    engines: int = 2, decoders: int = 2, sessions: int = 2, logs: Path | None = None, **settings: str
) -> AsyncIterator[Fleet]:
    """A fleet on loopback, each *sessions* with a *control* of its own, and one Valkey. settings: of engines.

    logs: the folder where each member's log stays; None: none stays.
    """
    fleet = Fleet()
    with tempfile.TemporaryDirectory(prefix="fleet-") as temporary:
        folder = logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        store = EmbeddedValkey()
        redis_url = await store.start()
        listed = [f"127.0.0.1:{_free_port()}" for _ in range(sessions)]
        wanted = [("sessions", sessions), ("control", sessions), ("engine", engines), ("decoder", decoders)]
        for service, count in wanted:
            for number in range(1, count + 1):
                name, address = f"{service}-{number}", f"127.0.0.1:{_free_port()}"
                environment = {"SESSIONS_ADDRESS": f"ipv4:{','.join(listed)}", "REDIS_URL": redis_url}
                if service == "engine":
                    environment |= {"REPLICA": name, **settings}
                if service == "sessions":
                    address = listed[number - 1]
                log = folder / f"{name}.log"
                fleet.members[name] = Member(service, name, address, environment, log)
        try:
            for member in fleet.members.values():
                await member.start()
            for member in fleet.members.values():
                await fleet.until_open(member)
            async with open_channel(listed[0]) as channel, asyncio.timeout(READY_S):
                stub = SessionServiceStub(channel)
                while not (await stub.ListModels(ListModelsRequest(), wait_for_ready=True)).models:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            yield fleet
        finally:
            for member in reversed([*fleet.members.values()]):
                await member.end()
            await store.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
