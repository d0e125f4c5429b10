"""`LatentSource`: a session's latents, from whichever engine holds its seat; it survives that engine."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.engine_pb2 import Credit, GenerateRequest, Latent, Seated, Start
from livevideo.v1.engine_pb2_grpc import EngineServiceStub
from livevideo.v1.session_pb2 import SESSION_STATE_CLOSED, SESSION_STATE_LIVE, GetRequest, Session
from services import telemetry
from services.app import open_channel
from services.credentials import Metadata
from services.endings import ended
from services.errors import EngineFull, SeatTaken, refusal_in
from services.tls import Tls

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

log = telemetry.logger("decoder")

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
# The seat of an engine that died is still kept for it for a moment, and its successor may still be starting.
_PASSING = (SeatTaken, EngineFull)


class LatentSource:
    """Calls Generate, and calls it again where it breaks: the world goes on with the next index.

    Permission is counted as a limit, not as credits, so that none is lost or given twice when a call breaks.
    """

    def __init__(
        self,
        sessions: "SessionServiceAsyncStub",
        session_id: str,
        *,
        limit: int,
        kept: int,
        patience_s: float,
        tls: Tls | None = None,
        retry_s: float = 0.2,
        credentials: Metadata = (),
    ) -> None:
        self._sessions = sessions
        self._session_id = session_id
        self._limit = limit
        self._limit_rose = asyncio.Event()
        self._first: list[Latent] = []  # latents 0 and 1, which no world ever forgets
        self._last: deque[Latent] = deque(maxlen=kept)
        self._patience_s = patience_s
        self._tls = tls
        self._retry_s = retry_s
        self._credentials = credentials  # the viewer's, to look the session up
        self.next_index = 0

    def allow(self, limit: int) -> None:
        """Let the engine make every latent with an index below `limit`."""
        if limit > self._limit:
            self._limit = limit
            self._limit_rose.set()

    async def latents(self, session: Session) -> AsyncGenerator[Seated | Latent, None]:
        """Seated once, then each latent once, in order, until the session is closed. Raises what ended it.

        A session that is live has a viewer: no engine is asked, since asking takes a slot for a moment.
        """
        if session.state == SESSION_STATE_LIVE:
            raise SeatTaken(
                f"session {self._session_id} has a viewer already; close that one, or open another session"
            )
        is_seated = False
        broken_at_s: float | None = None
        while True:
            received = self.next_index
            try:
                async with aclosing(self._generate(session.replica_address)) as responses:
                    async for said in responses:
                        if isinstance(said, Latent):
                            self._keep(said)
                            yield said
                        elif not is_seated:
                            is_seated = True
                            yield said
                return
            except grpc.aio.AioRpcError as error:
                now_s = time.monotonic()
                if broken_at_s is None or self.next_index > received:
                    broken_at_s = now_s
                is_passing = is_seated and isinstance(refusal_in(error), _PASSING)
                if error.code() not in _BROKEN and not is_passing:
                    raise
                if now_s - broken_at_s > self._patience_s:
                    raise
                log.warning(
                    "latents broke off",
                    session=self._session_id,
                    status=error.code().name,
                    next_index=self.next_index,
                )
            await asyncio.sleep(self._retry_s)
            session = await self._look_up(session)

    async def _look_up(self, known: Session) -> Session:
        try:
            session = await self._sessions.Get(
                GetRequest(session_id=self._session_id), timeout=1.0, metadata=self._credentials
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return known
            raise
        if session.state == SESSION_STATE_CLOSED:
            raise ended(f"session {self._session_id}", session.ended)
        return session

    async def _generate(self, address: str) -> AsyncGenerator[Seated | Latent, None]:
        async with open_channel(address, self._tls) as channel:
            ended = asyncio.Event()
            call = EngineServiceStub(channel).Generate(self._requests(ended))
            try:
                async for response in call:
                    yield response.seated if response.HasField("seated") else response.latent
            finally:
                # A call that has failed does not close what it was reading from.
                ended.set()
                self._limit_rose.set()
                call.cancel()

    async def _requests(self, ended: asyncio.Event) -> AsyncIterator[GenerateRequest]:
        yield GenerateRequest(start=Start(session_id=self._session_id, past=self._past()))
        told = self.next_index
        while not ended.is_set():
            self._limit_rose.clear()
            if self._limit > told:
                yield GenerateRequest(credit=Credit(latents=self._limit - told))
                told = self._limit
            await self._limit_rose.wait()

    def _past(self) -> list[Latent]:
        return [latent for latent in self._first if latent.index < self.next_index - len(self._last)] + [
            *self._last
        ]

    def _keep(self, latent: Latent) -> None:
        if latent.index != self.next_index:
            raise RuntimeError(
                f"engine sent latent {latent.index} of {self._session_id}; {self.next_index} was due"
            )
        self.next_index += 1
        if latent.index < 2:
            self._first.append(latent)
        self._last.append(latent)
