"""`Logbook`: takes what a recorded world has written down to *sessions*, about once a second."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.log_pb2 import AppendRequest, LogEntry
from services import telemetry
from services.engine.recorded import RecordedWorld

if TYPE_CHECKING:
    from livevideo.v1.log_pb2_grpc import LogServiceAsyncStub

log = telemetry.logger("engine")

_TIMEOUT_S = 2.0


class Logbook:
    """Nothing waits for it: while *sessions* is away, what was written down waits here, within bounds.

    How a session came into this engine, and a new prompt, are sent at once: without them nothing after could
    be played again, should this engine be killed before the second is over.
    """

    def __init__(self, world: RecordedWorld, period_s: float) -> None:
        self._world = world
        self._period_s = period_s
        self._soon = asyncio.Event()
        self._unsent: AppendRequest | None = None
        self._full: set[str] = set()

    async def run(self, logs: "LogServiceAsyncStub") -> None:
        """Without end."""
        loop = asyncio.get_running_loop()

        def hurry() -> None:
            loop.call_soon_threadsafe(self._soon.set)

        self._world.on_news = hurry
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), self._period_s)
            self._soon.clear()
            await self.send(logs)

    async def send(self, logs: "LogServiceAsyncStub") -> None:
        """All that there is; what does not arrive is sent again the next time, before anything newer."""
        if self._unsent is None:
            entries = [each for each in self._world.take() if each.session_id not in self._full]
            if not entries:
                return
            self._unsent = AppendRequest(entries=entries)
        try:
            response = await logs.Append(self._unsent, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            log.warning("sessions not logged yet", status=error.code().name, details=error.details())
            return
        sent = {each.session_id: each for each in self._unsent.entries}
        self._unsent = None
        for session_id in response.full:
            entry = sent.get(session_id, LogEntry())
            log.warning("session logged no more", session=session_id, tenant=entry.tenant, epoch=entry.epoch)
        self._full = {*self._full, *response.full} & self._world.named
