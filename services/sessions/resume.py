"""`ResumeService`: where a session goes on, and from what. For decoders and engines."""

from typing import TYPE_CHECKING

from livevideo.v1 import resume_pb2_grpc
from livevideo.v1.resume_pb2 import (
    PlaceRequest,
    RecallRequest,
    RecallResponse,
    SnapshotRequest,
    SnapshotResponse,
)
from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.app import Context
from services.errors import BadRequest
from services.sessions.store import SessionStore

if TYPE_CHECKING:
    from collections.abc import Callable

log = telemetry.logger("sessions")


class ResumeService(resume_pb2_grpc.ResumeServiceServicer):
    """*sessions*' part in going on after something has died."""

    def __init__(self, store: "Callable[[], SessionStore]", snapshot_bytes: int) -> None:
        """snapshot_bytes: the most that one snapshot may weigh."""
        self._store = store
        self._snapshot_bytes = snapshot_bytes

    async def Place(self, request: PlaceRequest, context: Context) -> Session:
        telemetry.concerns(session=request.session_id)
        session = await self._store().place(
            request.session_id,
            lost_epoch=request.lost_epoch,
            without=request.without,
            is_planned=request.is_planned,
            viewer=request.viewer,
        )
        telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
        if request.lost_epoch:
            log.info("session placed", replica=session.replica, was=request.without)
        return session

    async def Snapshot(self, request: SnapshotRequest, context: Context) -> SnapshotResponse:
        telemetry.concerns(session=request.session_id, epoch=request.epoch)
        if (size_bytes := request.ByteSize()) > self._snapshot_bytes:
            raise BadRequest(
                "past",
                f"a snapshot of {size_bytes} bytes is more than {self._snapshot_bytes}; set SNAPSHOT_BYTES"
                " higher, or the engine's IS_SNAPSHOTTED to false",
            )
        await self._store().keep(request)
        return SnapshotResponse()

    async def Recall(self, request: RecallRequest, context: Context) -> RecallResponse:
        telemetry.concerns(session=request.session_id)
        return await self._store().recall(request.session_id)
