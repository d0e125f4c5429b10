"""`Generation`: one Generate call on one engine, and whether that engine still answers."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from livevideo.v1.engine_pb2 import (
    Credit,
    GenerateRequest,
    GenerateResponse,
    Latent,
    Start,
    Take,
)
from livevideo.v1.engine_pb2_grpc import EngineServiceStub
from livevideo.v1.session_pb2 import Session
from services.app import open_channel
from services.tls import Tls

_LOOK_S = 0.1


class EngineHangs(Exception):
    """The engine holds the call open and says nothing, although it owes something."""


class Generation:
    """What is said to one engine, and what it says. Close it whatever happens.

    Permission to make latents is counted as a limit, not as credits, so that none is lost or given twice when
    another engine goes on.
    """

    def __init__(
        self, session: Session, start: Start, *, hang_s: float, seated_s: float, tls: Tls | None = None
    ) -> None:
        """Where `session` is placed. hang_s: how long a latent may be owed; seated_s: how long a seat may."""
        self.replica = session.replica
        self._hang_s = hang_s
        self._seated_s = seated_s
        self._channel = open_channel(session.replica_address, tls)
        self._said: asyncio.Queue[GenerateRequest | None] = asyncio.Queue()
        self._said.put_nowait(GenerateRequest(start=start))
        self._call = EngineServiceStub(self._channel).Generate(self._requests())
        # None where it is not known yet: the engine will say which latent comes next.
        self._next_index: int | None = None
        if start.past or not start.after_epoch:
            self._next_index = start.past[-1].index + 1 if start.past else 0
        self._allowed = self._next_index or 0
        self._is_seated = False
        self._reading: asyncio.Future[object] | None = None

    def allow(self, limit: int) -> None:
        """Let every latent with an index below `limit` be made."""
        if self._next_index is not None and limit > self._allowed:
            credit = Credit(latents=limit - self._allowed)
            self._said.put_nowait(GenerateRequest(credit=credit))
            self._allowed = limit

    def take(self, since: Sequence[Latent]) -> None:
        """To an engine that is ready: play on from here."""
        self._said.put_nowait(GenerateRequest(take=Take(since=since)))
        if since:
            self._next_index = self._allowed = since[-1].index + 1

    async def response(self) -> GenerateResponse | None:
        """What the engine says next; None: the session is closed. Raises AioRpcError, EngineHangs."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        # Looks are counted, not seconds: a decoder that stood still itself learns nothing from its clock.
        looks = 0
        while not (await asyncio.wait([self._reading], timeout=_LOOK_S))[0]:
            looks = looks + 1 if self._owes else 0
            patience_s = self._hang_s if self._is_seated else self._seated_s
            if looks * _LOOK_S >= patience_s:
                raise EngineHangs(f"{self.replica} has said nothing for {patience_s:g} s")
        reading, self._reading = self._reading, None
        response = reading.result()
        if not isinstance(response, GenerateResponse):  # the end of the call
            return None
        if response.HasField("seated"):
            self._is_seated = True
            self._next_index = response.seated.next_index
            self._allowed = max(self._allowed, self._next_index)
        elif response.HasField("latent"):
            self._next_index = response.latent.index + 1
        return response

    async def close(self) -> None:
        """Let go of the seat."""
        self._said.put_nowait(None)
        self._call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._channel.close()

    @property
    def _owes(self) -> bool:
        return not self._is_seated or self._allowed > (self._next_index or 0)

    async def _requests(self) -> AsyncIterator[GenerateRequest]:
        # A call that has failed does not close what it was reading from: `close` ends this.
        while (request := await self._said.get()) is not None:
            yield request
