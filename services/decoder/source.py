"""`LatentSource`: a session's latents, from whichever engine holds its seat; it survives that engine."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.engine_pb2 import Latent, Seated, Start
from livevideo.v1.resume_pb2 import PlaceRequest
from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.decoder.generation import EngineHangs, Generation
from services.decoder.successor import Successor
from services.errors import EngineFull, NoEngine, PeerUnavailable, SeatTaken, ServiceStopping
from services.relay import refusal_in
from services.tls import Tls
from services.trail import Trail

if TYPE_CHECKING:
    from livevideo.v1.resume_pb2_grpc import ResumeServiceAsyncStub

log = telemetry.logger("decoder")

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
# The seat may still be kept for an engine that died, and its successor may still be starting.
_PASSING = (SeatTaken, EngineFull)
_PLACE_TIMEOUT_S = 1.0
_SLOWEST = 8
_QUICK_AGAIN = 100  # latents


@dataclass(frozen=True)
class Patience:
    """How long what is waited for."""

    broken_s: float = 5.0  # a session that broke is tried again
    hang_s: float = 0.8  # an engine owes a latent
    seated_s: float = 3.0  # an engine owes a seat to a session that was played already
    opened_s: float = 10.0  # an engine owes a seat to a new one
    retry_s: float = 0.1  # between two tries, after the first


class LatentSource:
    """Calls Generate, and calls it again where it breaks: the world goes on with the next index."""

    def __init__(
        self,
        resume: "ResumeServiceAsyncStub",
        session_id: str,
        *,
        limit: int,
        kept: int,
        patience: Patience,
        from_index: int = 0,
        tls: Tls | None = None,
    ) -> None:
        """limit: latents with an index below this may be made. kept: so many are kept for the next engine.

        from_index: the first latent that the viewer has not seen whole. tls: what engines are shown.
        """
        self._resume = resume
        self._session_id = session_id
        self._limit = limit
        self._kept = kept
        self._patience = patience
        self._from_index = from_index
        self._tls = tls
        self._trail = Trail(kept)
        self._viewer = secrets.token_hex(8)
        self._epoch = 0  # of the seat that we have or had; 0: we had none
        self._slowness = 1  # how much longer than usual an engine is waited for
        self._generation: Generation | None = None
        self._successor: Successor | None = None

    @property
    def next_index(self) -> int:
        """Of the latent that will come."""
        return self._trail.next_index

    @property
    def epoch(self) -> int:
        """Of the seat that it has or had. 0: it had none."""
        return self._epoch

    def allow(self, limit: int) -> None:
        """Let the engine make every latent with an index below `limit`."""
        if limit > self._limit:
            self._limit = limit
            if self._generation is not None:
                self._generation.allow(limit)

    async def latents(self) -> AsyncGenerator[Seated | Latent, None]:
        """Seated once, then each latent once, in order, until the session is closed. Raises what ended it."""
        broken_at_s: float | None = None
        without = ""
        is_seated = False
        while True:
            received = self.next_index
            try:
                session = await self._place(without)
                without = session.replica
                self._generation = self._call(session)
                self._generation.allow(self._limit)
                while (said := await self._next()) is not None:
                    if isinstance(said, Latent):
                        yield said
                    elif not is_seated:
                        is_seated = True
                        yield said
                return
            except (grpc.aio.AioRpcError, EngineHangs) as error:
                if isinstance(error, EngineHangs):
                    # Perhaps every engine is slow; a world that is slow must still go on.
                    self._slowness = min(_SLOWEST, 2 * self._slowness)
                is_first = broken_at_s is None or self.next_index > received
                now_s = time.monotonic()
                broken_at_s = now_s if broken_at_s is None or is_first else broken_at_s
                self._check(error, now_s - broken_at_s)
                log.warning(
                    "latents broke off",
                    without=without,
                    error=_said(error),
                    next_index=self.next_index,
                )
            finally:
                await self._close()
            if not is_first:
                await asyncio.sleep(self._patience.retry_s)

    def _check(self, error: grpc.aio.AioRpcError | EngineHangs, broken_s: float) -> None:
        """Raises what ends the session: a refusal that waiting cannot change, or the end of our patience."""
        refusal = refusal_in(error)
        if isinstance(error, grpc.aio.AioRpcError):
            is_passing = self._epoch and isinstance(refusal, _PASSING)
            if error.code() not in _BROKEN and not is_passing:
                raise error if refusal is None else refusal
        if broken_s <= self._patience.broken_s:
            return
        if refusal is None or isinstance(refusal, (PeerUnavailable, ServiceStopping)):
            raise NoEngine(
                f"no engine goes on with session {self._session_id} now; watch again soon", retry_after_s=1.0
            ) from error
        raise refusal from error

    async def _place(self, without: str) -> Session:
        request = PlaceRequest(
            session_id=self._session_id, lost_epoch=self._epoch, without=without, viewer=self._viewer
        )
        return await self._resume.Place(request, timeout=_PLACE_TIMEOUT_S)

    def _call(self, session: Session) -> Generation:
        start = Start(
            session_id=self._session_id,
            past=self._trail.latents(),
            after_epoch=session.epoch,
            from_index=self._from_index,
            viewer=self._viewer,
        )
        patience = self._patience
        seated_s = patience.seated_s if session.epoch else patience.opened_s
        return Generation(
            session,
            start,
            hang_s=self._slowness * patience.hang_s,
            seated_s=self._slowness * seated_s,
            tls=self._tls,
        )

    async def _next(self) -> Seated | Latent | None:
        """What comes next, from the engine or from its successor. Raises AioRpcError, EngineHangs."""
        generation = self._generation
        assert generation is not None
        response = await generation.response()
        if response is None:
            return None
        if response.HasField("seated"):
            self._epoch = response.seated.epoch
            telemetry.concerns(epoch=self._epoch)
            if response.seated.past:
                self._trail = Trail(self._kept, response.seated.past)
            generation.allow(self._limit)
            return response.seated
        latent = response.latent
        self._keep(latent)
        if latent.is_leaving:
            await self._move(generation.replica)
        return latent

    async def _move(self, leaving: str) -> None:
        """Open a seat elsewhere before this one ends, and go on there once the world is built up."""
        if self._successor is None:
            self._successor = Successor(
                self._resume,
                self._session_id,
                self._viewer,
                self._epoch,
                leaving,
                hang_s=self._patience.hang_s,
                tls=self._tls,
            )
        ready = self._successor.ready(self._trail.latents())
        if ready is None:
            return
        assert self._generation is not None
        ready.take(self._trail.after(self._successor.past_index))
        ready.allow(self._limit)
        left, self._generation, self._successor = self._generation, ready, None
        await left.close()

    async def _close(self) -> None:
        generation, self._generation = self._generation, None
        successor, self._successor = self._successor, None
        for each in (generation, successor):
            if each is not None:
                await each.close()

    def _keep(self, latent: Latent) -> None:
        if latent.index != self.next_index:
            raise RuntimeError(
                f"engine sent latent {latent.index} of {self._session_id}; {self.next_index} was due"
            )
        self._trail.add(latent)
        if latent.index % _QUICK_AGAIN == 0:
            self._slowness = 1


def _said(error: Exception) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
