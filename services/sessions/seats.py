"""`SeatService`: what engines and *control* ask of *sessions*: seats, controls, receipts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from livevideo.v1 import session_pb2_grpc
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    AnnounceResponse,
    ClaimRequest,
    FollowRequest,
    PushRequest,
    Seat,
    Session,
)
from services import telemetry
from services.app import Context, until_one_ends
from services.errors import BadRequest, ServiceError, SessionClosed
from services.sessions import admission
from services.sessions.access import Access
from services.sessions.follow import Follow
from services.sessions.meter import Meter
from services.sessions.push import Push
from services.sessions.store import SessionStore
from services.sessions.streams import Streams
from services.sessions.tenants import TenantStore
from services.tracing import Tracer

log = telemetry.logger("sessions")

_LAST_WORD_S = 0.5  # longest wait for it, of an engine that follows a session that has ended


@dataclass(frozen=True)
class Opened:
    """What there is once *sessions* has started."""

    store: SessionStore
    tenants: TenantStore
    access: Access


class SeatService(session_pb2_grpc.SeatServiceServicer):
    """For our own services, on the internal port."""

    def __init__(
        self,
        opened: Callable[[], Opened],
        streams: Streams,
        tracer: Tracer,
        *,
        linger_s: float,
        outage_s: float,
        lease_s: float,
        notice_s: float,
    ) -> None:
        """The times are as in the settings of *sessions*."""
        self._opened = opened
        self._streams = streams
        self._tracer = tracer
        self._linger_s = linger_s
        self._outage_s = outage_s
        self._lease_s = lease_s
        self._notice_s = notice_s

    async def Announce(self, request: AnnounceRequest, context: Context) -> AnnounceResponse:
        admission.check_announce(request)
        await self._opened().store.announce(request)
        return AnnounceResponse()

    async def Claim(self, request: ClaimRequest, context: Context) -> Session:
        admission.check_replica(request.replica)
        after_epoch = request.after_epoch if request.HasField("after_epoch") else None
        store = self._opened().store
        telemetry.concerns(session=request.session_id)
        session = await store.claim(request.session_id, request.replica, after_epoch, request.viewer)
        telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
        try:
            await self._meter(session, session.epoch).tell()
        except ServiceError:
            await self._release(session.session_id, session.epoch, keep_s=0.0)
            raise
        log.info("session claimed", replica=session.replica)
        return session

    # grpc.aio also takes a coroutine that writes to the context; the stubs know generators only.
    async def Push(  # type: ignore[override]
        self, request_iterator: AsyncIterator[PushRequest], context: Context
    ) -> None:
        first = await anext(request_iterator, None)
        if first is None:
            return
        session_id, opened = first.event.session_id, self._opened()
        telemetry.concerns(session=session_id)
        await opened.access.holder(session_id, context)
        with self._streams.reading(session_id):
            # Receipts are read from this point on, so that none is missed before the first read.
            attached = await opened.store.attach(session_id)
            session = attached.session
            telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
            push = Push(opened.store, session, attached.newest_receipt, context, self._tracer)
            await until_one_ends(
                push.store_all(first, request_iterator, self._linger_s),
                push.bring_obeyed(),
                self._streams.until_stopping(),
            )

    async def Follow(  # type: ignore[override]
        self, request_iterator: AsyncIterator[FollowRequest], context: Context
    ) -> None:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("seat"):
            raise BadRequest("seat", "is missing; the first message says which session and epoch")
        seat, store = first.seat, self._opened().store
        telemetry.concerns(session=seat.session_id, epoch=seat.epoch)
        try:
            await store.renew(seat.session_id, seat.epoch)
        except SessionClosed:
            await self._settle(seat, request_iterator)
            raise
        attached = await store.attach(seat.session_id)
        session = attached.session
        telemetry.concerns(tenant=session.tenant)
        meter = self._meter(session, seat.epoch)
        follow = Follow(
            store,
            meter,
            seat,
            attached.prompt,
            context,
            renew_period_s=store.limits.live_seat_s / 3,
            outage_s=self._outage_s,
        )
        with self._streams.opened():
            try:
                await until_one_ends(
                    follow.bring_controls(),
                    follow.take_in(request_iterator),
                    meter.run(),
                    self._streams.until_stopping(),
                )
            except SessionClosed as end:
                tenant = telemetry.tenant_label(session.tenant)
                telemetry.SESSIONS_ENDED.labels(tenant, session.model.name, end.reason).inc()
            finally:
                with contextlib.suppress(ServiceError):  # what ended it is raised already
                    await meter.tell()
                # An engine that is still there will follow through another instance, and keeps its seat.
                if not self._streams.are_stopping:
                    await self._release(seat.session_id, seat.epoch, keep_s=store.limits.away_seat_s)

    async def _settle(self, seat: Seat, requests: AsyncIterator[FollowRequest]) -> None:
        """What an engine made until it heard that its session had ended is counted, too."""
        with contextlib.suppress(ServiceError, TimeoutError):
            session = await self._opened().store.find(seat.session_id)
            meter = self._meter(session, seat.epoch)
            async with asyncio.timeout(_LAST_WORD_S):
                async for request in requests:
                    if request.HasField("latents"):
                        meter.heard(request.latents)
                        break
            await meter.tell()

    def _meter(self, session: Session, epoch: int) -> Meter:
        opened = self._opened()
        return Meter(
            opened.tenants,
            session,
            epoch,
            period_s=opened.store.limits.live_seat_s / 3,
            keep_s=self._lease_s,
            notice_s=self._notice_s,
        )

    async def _release(self, session_id: str, epoch: int, *, keep_s: float) -> None:
        try:
            await self._opened().store.release(session_id, epoch, keep_s)
            log.info("session released")
        except ServiceError as error:  # the seat lapses by itself
            log.warning("release failed", reason=error.reason)
