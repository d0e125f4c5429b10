"""`Snapshots`: what must outlive both engine and decoder is kept by *sessions*, every few seconds."""

import asyncio
import time
from typing import TYPE_CHECKING

import grpc

from livevideo.v1.resume_pb2 import SnapshotRequest
from services import telemetry
from services.engine.stays import Stay

if TYPE_CHECKING:
    from livevideo.v1.resume_pb2_grpc import ResumeServiceAsyncStub

log = telemetry.logger("engine")

_TIMEOUT_S = 1.0


class Snapshots:
    """Keeps the last latents of a stay: as many as the world needs to go on, and no more."""

    def __init__(
        self, resume: "ResumeServiceAsyncStub", *, period_s: float, first_s: float, latents: int
    ) -> None:
        """period_s: 0 keeps none. first_s: until the first one. latents: besides the first two."""
        self._resume = resume
        self._period_s = period_s
        self._first_s = first_s
        self._latents = latents

    async def run(self, stay: Stay) -> None:
        """For as long as the stay lasts. One that cannot be kept is missed: the next one will do."""
        kept_index, is_kept, wait_s = -1, True, self._first_s
        while self._period_s:
            await asyncio.sleep(wait_s)
            wait_s = self._period_s
            newest = stay.trail.newest
            if newest is None or newest.index == kept_index:
                continue
            snapshot = SnapshotRequest(
                session_id=stay.session_id,
                epoch=stay.epoch,
                past=stay.trail.latents(self._latents),
                made_at_s=time.time(),
            )
            try:
                await self._resume.Snapshot(snapshot, timeout=_TIMEOUT_S)
                kept_index, is_kept = newest.index, True
            except grpc.aio.AioRpcError as error:
                if is_kept:
                    log.warning("snapshot not kept", details=error.details())
                is_kept = False
