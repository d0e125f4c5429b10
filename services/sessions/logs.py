"""The logs of sessions: what an engine did for each, kept for a while and up to a size for each tenant."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from livevideo.v1 import log_pb2_grpc
from livevideo.v1.log_pb2 import AppendRequest, AppendResponse, ReadRequest, ReadResponse
from services import telemetry
from services.app import Context
from services.errors import UnknownSession
from services.sessions.store import SessionStore

log = telemetry.logger("sessions")


@dataclass(frozen=True)
class LogLimits:
    """How long logs are kept, and how much."""

    kept_s: float = 86_400.0  # after a log's last entry
    tenant_bytes: int = 64 << 20  # of all logs of one tenant


class LogService(log_pb2_grpc.LogServiceServicer):
    """For engines, which append, and for operators, who read."""

    def __init__(self, store: Callable[[], SessionStore], limits: LogLimits) -> None:
        self._store = store
        self._limits = limits

    async def Append(self, request: AppendRequest, context: Context) -> AppendResponse:
        full = []
        for entry in request.entries:
            try:
                is_kept, dropped = await self._store().log(
                    entry, kept_s=self._limits.kept_s, tenant_bytes=self._limits.tenant_bytes
                )
            except UnknownSession:  # it has expired: so would its log
                is_kept, dropped = False, []
            if not is_kept:
                full.append(entry.session_id)
                log.warning("log is full", session=entry.session_id, tenant=entry.tenant)
            if dropped:
                telemetry.LOGS_DROPPED.labels(entry.tenant).inc(len(dropped))
                log.warning("logs dropped to make room", tenant=entry.tenant, sessions=dropped)
        return AppendResponse(full=full)

    # grpc.aio also takes an async generator; the stubs know it as an iterator.
    async def Read(self, request: ReadRequest, context: Context) -> AsyncIterator[ReadResponse]:
        async for part in self._store().read_log(request.session_id):
            yield part
