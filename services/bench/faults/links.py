"""`Link`: the way from one service to another, which can be cut."""

import asyncio
from contextlib import suppress

_PIECE_BYTES = 1 << 16


class Link:
    """A TCP proxy on loopback that can stop forwarding.

    A cut closes nothing and loses nothing, as where a cable is out: both ends hear silence, whoever connects
    meanwhile is not answered, and what was sent arrives when the link is mended. An end that dies is told to
    the other one, as its kernel would; not during a cut.
    """

    def __init__(self, target: str) -> None:
        """target: host:port of the service that it leads to."""
        self._host, _, self._port = target.rpartition(":")
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = ""

    async def open(self) -> None:
        """Listens; `address` is known from now on."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def drop(self) -> None:
        """Ends every connection, as a proxy that is started again does; who comes next is let through."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._whole.wait()
            there = await asyncio.open_connection(self._host, int(self._port))
            await asyncio.gather(self._pump(reader, there[1]), self._pump(there[0], writer))
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens there, or this link is closed
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(_PIECE_BYTES):
                await self._whole.wait()
                writer.write(piece)
                await writer.drain()
        finally:
            with suppress(asyncio.CancelledError):
                await self._whole.wait()
            writer.close()
