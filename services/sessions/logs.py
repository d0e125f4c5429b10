"""The logs of sessions: what an engine did for each, kept for a while and up to a size for each tenant."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from livevideo.v1 import log_pb2_grpc
from livevideo.v1.log_pb2 import AppendRequest, AppendResponse, Full, LogEntry, ReadRequest, ReadResponse
from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.app import Context
from services.errors import UnknownSession
from services.sessions import log_scripts, scripts
from services.sessions.keys import checked
from services.sessions.store import SessionStore

log = telemetry.logger("sessions")

_AT_ONCE = 64  # entries that are read together


@dataclass(frozen=True)
class LogLimits:
    """How long logs are kept, and how much."""

    kept_s: float = 86_400.0  # after a log's last entry
    tenant_bytes: int = 64 << 20  # of all logs of one tenant


class LogStore:
    """Speaks to Redis through the store of the sessions, and fails as it does."""

    def __init__(self, store: SessionStore) -> None:
        self._door = store.door

    async def append(self, entry: LogEntry, limits: LogLimits) -> tuple[bool, list[str]]:
        """Adds to a session's log. Whether there was room, and whose logs were dropped to make some.

        Raises UnknownSession.
        """
        outcome, *dropped = await self._door.run(
            log_scripts.APPEND,
            log_scripts.keys(checked(entry.session_id), entry.tenant),
            [
                entry.session_id,
                entry.SerializeToString(),
                round(limits.kept_s * 1000),
                limits.tenant_bytes,
                log_scripts.log_key_pattern(),
            ],
            about=f"session {entry.session_id}",
        )
        return outcome == b"kept", [session_id.decode() for session_id in dropped]

    async def read(self, session_id: str) -> AsyncIterator[ReadResponse]:
        """The session as it was opened, then its log. Raises UnknownSession where there is none."""
        key, after = scripts.session_key(checked(session_id), "log"), "-"
        while True:
            newest, *entries = await self._door.run(
                log_scripts.READ, [key], [after, _AT_ONCE], about=f"session {session_id}"
            )
            for words in entries:
                fields = dict(zip(words[::2], words[1::2], strict=True))
                if b"record" in fields:
                    session = Session.FromString(fields[b"record"])
                    session.image = fields[b"image"]
                    yield ReadResponse(session=session)
                if b"entry" in fields:
                    yield ReadResponse(entry=LogEntry.FromString(fields[b"entry"]))
                if b"full" in fields:
                    yield ReadResponse(full=Full())
            if len(entries) < _AT_ONCE:
                return
            after = f"({newest.decode()}"


class LogService(log_pb2_grpc.LogServiceServicer):
    """For engines, which append, and for operators, who read."""

    def __init__(self, store: Callable[[], SessionStore], limits: LogLimits) -> None:
        self._store = store
        self._limits = limits

    async def Append(self, request: AppendRequest, context: Context) -> AppendResponse:
        full = []
        for entry in request.entries:
            try:
                is_kept, dropped = await LogStore(self._store()).append(entry, self._limits)
            except UnknownSession:  # it has expired: so would its log
                is_kept, dropped = False, []
            if not is_kept:
                full.append(entry.session_id)
                who = {"session": entry.session_id, "tenant": entry.tenant, "epoch": entry.epoch}
                log.warning("log is full", **who)
            if dropped:
                telemetry.LOGS_DROPPED.labels(telemetry.tenant_label(entry.tenant)).inc(len(dropped))
                log.warning("logs dropped to make room", tenant=entry.tenant, sessions=dropped)
        return AppendResponse(full=full)

    # grpc.aio also takes an async generator; the stubs know it as an iterator.
    async def Read(self, request: ReadRequest, context: Context) -> AsyncIterator[ReadResponse]:
        async for part in LogStore(self._store()).read(request.session_id):
            yield part
