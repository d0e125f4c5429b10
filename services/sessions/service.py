"""SessionService: opens, finds and closes sessions, and tells players what they should know in time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from livevideo.v1 import log_pb2, log_pb2_grpc, resume_pb2, resume_pb2_grpc, session_pb2, session_pb2_grpc
from livevideo.v1.session_pb2 import (
    CloseRequest,
    CloseResponse,
    GetRequest,
    ListModelsRequest,
    ListModelsResponse,
    NoticesRequest,
    OpenRequest,
    Session,
    WaitResponse,
)
from services import telemetry
from services.app import Context, Host, until_one_ends
from services.errors import ServiceError
from services.sessions import admission
from services.sessions.access import Access
from services.sessions.admin import AdminService
from services.sessions.brake import Brake
from services.sessions.connection import RedisAccess, check_url
from services.sessions.embedded import EmbeddedValkey
from services.sessions.logs import LogLimits, LogService
from services.sessions.openings import Openings
from services.sessions.pictures import Pictures
from services.sessions.resume import ResumeService
from services.sessions.seats import Opened, SeatService
from services.sessions.store import SessionStore, StoreLimits
from services.sessions.streams import Streams
from services.sessions.tenancy import Entrant
from services.sessions.tenants import TenantStore
from services.sessions.waiting import until_seated
from services.settings import check
from services.tls import Tls
from services.tracing import Tracer, Tracing

log = telemetry.logger("sessions")

_LOOK_PERIOD_S = 1.0  # at Redis, which may be gone while nobody asks


@dataclass(frozen=True)
class Settings:
    """From the environment; the variable is the field's name in capitals."""

    address: str = "127.0.0.1:50052"  # where it listens, host:port
    internal_address: str = "127.0.0.1:50062"  # for our own services, host:port; may be `address` itself
    metrics_port: int = 0  # where Prometheus reads, on the same host; 0: nowhere
    # redis://, unix://, redis+sentinel:// or redis+cluster://, with rediss for TLS; empty: a Valkey of its
    # own, which keeps nothing
    redis_url: str = field(default="", repr=False)
    redis: RedisAccess = field(default_factory=RedisAccess)
    outage_s: float = 90.0  # an engine's Follow, and what it obeyed, outlive a silence of Redis this long
    # Most calls of one session here that hold a connection to Redis: Push, and Notices.
    pushes_per_session: int = 8
    log_kept_s: float = 86_400.0  # what a session can be played again from, after its last entry
    log_tenant_bytes: int = 64 << 20  # of all logs of one tenant
    linger_s: float = 5.0  # a Push whose sender has finished waits this long for the last obeyed receipts
    most_waiting: int = 1000  # who may wait for a model's seats at once
    most_waiting_of_tenant: int = 100  # of one tenant, where there are tenants
    lease_s: float = 30.0  # a session keeps its seat, and counts as its tenant's, this long unwatched
    snapshot_bytes: int = 16 << 20  # the most that a session's snapshot may weigh
    refusals_per_s: float = 10.0  # of one tenant at once; what is more waits, for two seconds at most
    notice_s: float = 10.0  # before a session is ended to make room, or since its time is up
    asks_for_keys: bool = False  # even where there is no tenant yet; else everybody is let in then
    admin_address: str = ""  # where tenants are administered, host:port; empty: nowhere
    admin_key_file: str = ""  # what is in it is asked of whoever administers; needed beyond this machine
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)

    def __post_init__(self) -> None:
        check(self, pushes_per_session=1)
        if self.redis_url:
            check_url(self.redis_url)


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Any number of instances may share one Redis; none keeps anything that another would need."""

    name = "sessions"

    def __init__(self, settings: Settings | None = None, limits: StoreLimits | None = None) -> None:
        self._settings = settings or Settings()
        self._limits = limits or StoreLimits(away_seat_s=self._settings.lease_s)
        self._embedded: EmbeddedValkey | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._opened: Opened | None = None
        self._admin: Host | None = None
        self._tracer = Tracer(self.name, self._settings.tracing)
        self._streams = Streams(self._settings.pushes_per_session)
        self._looking: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._pictures = Pictures()
        self._openings = Openings(Brake(self._settings.refusals_per_s))

    def _there(self) -> Opened:
        if self._opened is None:
            raise RuntimeError("sessions was asked before it was started; await start() first")
        return self._opened

    @property
    def _store(self) -> SessionStore:
        return self._there().store

    @property
    def admin_address(self) -> str:
        """Where tenants are administered, with the real port; empty: nowhere."""
        return self._admin.address if self._admin else ""

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, server)
        return [session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name]

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        settings = self._settings
        seats = SeatService(
            self._there,
            self._streams,
            self._tracer,
            linger_s=settings.linger_s,
            outage_s=settings.outage_s,
            lease_s=settings.lease_s,
            notice_s=settings.notice_s,
        )
        session_pb2_grpc.add_SeatServiceServicer_to_server(seats, server)
        resume = ResumeService(lambda: self._store, settings.snapshot_bytes)
        resume_pb2_grpc.add_ResumeServiceServicer_to_server(resume, server)
        log_limits = LogLimits(settings.log_kept_s, settings.log_tenant_bytes)
        log_pb2_grpc.add_LogServiceServicer_to_server(LogService(lambda: self._store, log_limits), server)
        return [
            session_pb2.DESCRIPTOR.services_by_name["SeatService"].full_name,
            resume_pb2.DESCRIPTOR.services_by_name["ResumeService"].full_name,
            log_pb2.DESCRIPTOR.services_by_name["LogService"].full_name,
        ]

    async def start(self) -> None:
        url = self._settings.redis_url
        if not url:
            self._embedded = EmbeddedValkey()
            url = await self._embedded.start()
            self._keeping = asyncio.create_task(self._embedded.keep_running())
        # Seats are renewed between reads, so a read must end well before a seat lapses.
        store = SessionStore(
            url,
            self._limits,
            block_s=min(1.0, self._limits.live_seat_s / 3),
            access=self._settings.redis,
        )
        tenants = TenantStore(store)
        access = Access(tenants, asks_for_keys=self._settings.asks_for_keys)
        self._opened = Opened(store, tenants, access)
        self._looking = asyncio.create_task(self._look_after_redis(store))
        if self._settings.admin_address:
            await self._start_admin(tenants)

    async def _start_admin(self, tenants: TenantStore) -> None:
        address, tls = self._settings.admin_address, self._settings.tls
        key_file, asks_certificates = self._settings.admin_key_file, bool(tls.tls_ca_file)
        admin = AdminService(tenants, address, key_file, asks_certificates=asks_certificates)
        self._admin = Host(admin, address=address, tls=tls)
        await self._admin.start()

    def trouble(self) -> str | None:
        """Why no session can be opened, where that is so."""
        return self._trouble

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._streams.stop(grace_s=2.0)
        if self._admin is not None:
            await self._admin.stop()
        if self._opened is not None:
            await self._opened.store.close()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._embedded is not None:
            await self._embedded.stop()
        self._pictures.close()
        await self._tracer.stop()

    async def _look_after_redis(self, store: SessionStore) -> None:
        while True:
            try:
                await store.check()
                self._trouble = None
            except ServiceError as error:
                self._trouble = error.message
            await asyncio.sleep(_LOOK_PERIOD_S)

    async def _record(self, request: OpenRequest, entrant: Entrant) -> Session:
        return await admission.record(request, entrant, self._pictures, *await self._store.models())

    async def Open(self, request: OpenRequest, context: Context) -> Session:
        async with self._openings.deciding(request.model) as opening:
            entrant = await self._there().access.entrant(context)
            opening.asker = opening.tenant = entrant.tenant
            session = await self._store.open(await self._record(request, entrant), entrant)
            opening.tenant, opening.model = session.tenant, session.model.name
        _tell_opened(session)
        return session

    # grpc.aio also takes a coroutine that writes to the context; the stubs know generators only.
    async def Wait(self, request: OpenRequest, context: Context) -> None:  # type: ignore[override]
        async with self._openings.deciding(request.model, is_timed=False) as opening:
            entrant = await self._there().access.entrant(context)
            opening.asker = opening.tenant = entrant.tenant
            record = await self._record(request, entrant)
            opening.tenant, opening.model = record.tenant, record.model.name
            telemetry.concerns(tenant=record.tenant)
            places = until_seated(
                self._store,
                self._there().tenants,
                record,
                entrant,
                most=self._settings.most_waiting,
                most_of_tenant=self._settings.most_waiting_of_tenant,
            )
            with self._streams.opened():
                await until_one_ends(_written(places, context), self._streams.until_stopping())

    async def Notices(self, request: NoticesRequest, context: Context) -> None:  # type: ignore[override]
        session_id = request.session_id
        telemetry.concerns(session=session_id)
        holder = await self._there().access.holder(session_id, context)
        telemetry.concerns(tenant=holder.tenant)
        with self._streams.reading(session_id):
            after = (await self._store.attach(session_id)).newest_receipt
            notice = (await self._there().tenants.holder(session_id)).notice  # none is missed between the two
            if notice is not None:
                await context.write(notice)
            notices = self._there().tenants.notices(session_id, after)
            await until_one_ends(_written(notices, context), self._streams.until_stopping())

    async def Get(self, request: GetRequest, context: Context) -> Session:
        telemetry.concerns(session=request.session_id)
        holder = await self._there().access.holder(request.session_id, context)
        telemetry.concerns(tenant=holder.tenant)
        session = await self._store.find(request.session_id)
        telemetry.concerns(epoch=session.epoch)
        session.ended = holder.ended
        if holder.notice is not None:
            session.notice.CopyFrom(holder.notice)
        return session

    async def Close(self, request: CloseRequest, context: Context) -> CloseResponse:
        telemetry.concerns(session=request.session_id)
        holder = await self._there().access.holder(request.session_id, context)
        telemetry.concerns(tenant=holder.tenant)
        await self._store.end(request.session_id, holder.tenant)
        log.info("session closed")
        return CloseResponse()

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        live, _ = await self._store.models()
        return ListModelsResponse(models=live.values())


def _tell_opened(session: Session) -> None:
    telemetry.concerns(session=session.session_id, tenant=session.tenant, epoch=session.epoch)
    log.info("session opened", replica=session.replica)


async def _written(messages: AsyncGenerator[Any, None], context: Context) -> None:
    """Writes messages as they come; they are closed with the call."""
    async with contextlib.aclosing(messages):
        async for message in messages:
            if isinstance(message, WaitResponse) and message.HasField("session"):
                _tell_opened(message.session)
            await context.write(message)
