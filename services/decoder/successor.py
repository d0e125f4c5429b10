"""`Successor`: the engine that a session moves to, built up while the one that drains still plays."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.engine_pb2 import Latent, Start
from livevideo.v1.resume_pb2 import PlaceRequest
from services import telemetry
from services.decoder.generation import EngineHangs, Generation
from services.tls import Tls

if TYPE_CHECKING:
    from livevideo.v1.resume_pb2_grpc import ResumeServiceAsyncStub

log = telemetry.logger("decoder")

_AGAIN_S = 1.0  # between two searches
_PLACE_TIMEOUT_S = 1.0
_BUILD_S = 10.0  # longest time for a world to be built up


class Successor:
    """Looks for a seat without the replica that leaves, again and again, and has the world built up there."""

    def __init__(
        self,
        resume: "ResumeServiceAsyncStub",
        session_id: str,
        viewer: str,
        epoch: int,
        leaving: str,
        *,
        hang_s: float,
        tls: Tls | None = None,
    ) -> None:
        self._resume = resume
        self._session_id = session_id
        self._viewer = viewer
        self._epoch = epoch
        self._leaving = leaving
        self._hang_s = hang_s
        self._tls = tls
        self._building: asyncio.Task[Generation] | None = None
        self._search_at_s = 0.0
        self.past_index = 0  # the newest latent that it was built up from

    def ready(self, past: Sequence[Latent]) -> Generation | None:
        """The call on an engine that waits for `take`, which is the caller's from now on. None: not yet.

        past: what a search that begins now builds up from.
        """
        if self._building is None:
            if time.monotonic() >= self._search_at_s:
                self.past_index = past[-1].index
                self._building = asyncio.create_task(self._build(past))
            return None
        if not self._building.done():
            return None
        building, self._building = self._building, None
        try:
            return building.result()
        except (grpc.aio.AioRpcError, EngineHangs) as error:
            said = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            log.info("no successor found", session=self._session_id, leaving=self._leaving, error=said)
            self._search_at_s = time.monotonic() + _AGAIN_S
            return None

    async def close(self) -> None:
        """Give up the search."""
        building, self._building = self._building, None
        if building is not None:
            building.cancel()
            (outcome,) = await asyncio.gather(building, return_exceptions=True)
            if isinstance(outcome, Generation):
                await outcome.close()

    async def _build(self, past: Sequence[Latent]) -> Generation:
        session = await self._resume.Place(
            PlaceRequest(
                session_id=self._session_id,
                lost_epoch=self._epoch,
                without=self._leaving,
                is_planned=True,
                viewer=self._viewer,
            ),
            timeout=_PLACE_TIMEOUT_S,
        )
        start = Start(
            session_id=self._session_id,
            past=past,
            after_epoch=self._epoch,
            is_ahead=True,
            seed=session.seed,
            viewer=self._viewer,
        )
        generation = Generation(session, start, hang_s=self._hang_s, seated_s=_BUILD_S, tls=self._tls)
        try:
            response = await generation.response()
        except BaseException:
            await generation.close()
            raise
        if response is None or not response.HasField("ready"):
            await generation.close()
            raise EngineHangs(f"{session.replica} did not say that it is ready")
        return generation
