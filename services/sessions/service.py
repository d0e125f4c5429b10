"""SessionService: opens, finds and closes sessions; carries controls to engines and receipts back."""

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from livevideo.v1 import resume_pb2, resume_pb2_grpc, session_pb2, session_pb2_grpc
from livevideo.v1.control_pb2 import Accepted, ControlReceipt, Refused
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    AnnounceResponse,
    ClaimRequest,
    CloseRequest,
    CloseResponse,
    FollowRequest,
    FollowResponse,
    GetRequest,
    ListModelsRequest,
    ListModelsResponse,
    OpenRequest,
    PushRequest,
    Seat,
    Session,
)
from services import telemetry
from services.app import Context, until_one_ends
from services.errors import BadRequest, PeerUnavailable, ServiceError, SessionClosed, StoreUnavailable
from services.sessions import admission
from services.sessions.embedded import EmbeddedValkey
from services.sessions.resume import ResumeService
from services.sessions.store import SessionStore, StoreLimits

log = telemetry.logger("sessions")


@dataclass(frozen=True)
class Settings:
    """From the environment; the variable is the field's name in capitals."""

    address: str = "127.0.0.1:50052"  # where it listens, host:port
    metrics_port: int = 0  # where Prometheus reads, on the same host; 0: nowhere
    redis_url: str = ""  # redis://, rediss:// or unix://; empty: a Valkey of its own, which keeps nothing
    outage_s: float = 10.0  # an engine's Follow outlives a silence of Redis this long
    pushes_per_session: int = 8  # most Push calls of one session here; each holds a connection to Redis
    linger_s: float = 5.0  # a Push whose sender has finished waits this long for the last obeyed receipts
    away_s: float = 30.0  # a seat is kept this long for a viewer who was there and may come back
    snapshot_bytes: int = 16 << 20  # the most that a session's snapshot may weigh


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Any number of instances may share one Redis; none keeps anything that another would need."""

    name = "sessions"

    def __init__(self, settings: Settings | None = None, limits: StoreLimits | None = None) -> None:
        self._settings = settings or Settings()
        self._limits = limits or StoreLimits(away_seat_s=self._settings.away_s)
        self._embedded: EmbeddedValkey | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._opened_store: SessionStore | None = None
        self._streams: set[asyncio.Task[Any]] = set()
        self._pushes: Counter[str] = Counter()
        self._stopping = asyncio.Event()

    @property
    def _store(self) -> SessionStore:
        if self._opened_store is None:
            raise RuntimeError("sessions was asked before it was started; await start() first")
        return self._opened_store

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        session_pb2_grpc.add_SessionServiceServicer_to_server(self, server)
        resume = ResumeService(lambda: self._store, self._settings.snapshot_bytes)
        resume_pb2_grpc.add_ResumeServiceServicer_to_server(resume, server)
        return [
            session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name,
            resume_pb2.DESCRIPTOR.services_by_name["ResumeService"].full_name,
        ]

    async def start(self) -> None:
        url = self._settings.redis_url
        if not url:
            self._embedded = EmbeddedValkey()
            url = await self._embedded.start()
            self._keeping = asyncio.create_task(self._embedded.keep_running())
        # Seats are renewed between reads, so a read must end well before a seat lapses.
        self._opened_store = SessionStore(url, self._limits, block_s=min(1.0, self._limits.live_seat_s / 3))

    async def stop(self) -> None:
        self._stopping.set()
        if self._streams:
            await asyncio.wait(self._streams, timeout=2.0)
        if self._opened_store is not None:
            await self._opened_store.close()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        if self._embedded is not None:
            await self._embedded.stop()

    async def Open(self, request: OpenRequest, context: Context) -> Session:
        model = admission.chosen_model(request.model, *await self._store.models())
        admission.check_open(request)
        image = await admission.plain_picture(request.image, model) if request.image else b""
        session = await self._store.open(
            Session(
                tenant=request.tenant or "default",
                model=model,
                seed=request.seed or secrets.randbelow(2**31 - 1) + 1,
                image=image,
                prompt=request.prompt,
                opened_at_s=time.time(),
            )
        )
        log.info("session opened", session=session.session_id, tenant=session.tenant, replica=session.replica)
        return session

    async def Get(self, request: GetRequest, context: Context) -> Session:
        return await self._store.find(request.session_id)

    async def Close(self, request: CloseRequest, context: Context) -> CloseResponse:
        await self._store.end(request.session_id)
        log.info("session closed", session=request.session_id)
        return CloseResponse()

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        live, _ = await self._store.models()
        return ListModelsResponse(models=live.values())

    async def Announce(self, request: AnnounceRequest, context: Context) -> AnnounceResponse:
        admission.check_announce(request)
        await self._store.announce(request)
        return AnnounceResponse()

    async def Claim(self, request: ClaimRequest, context: Context) -> Session:
        admission.check_replica(request.replica)
        after_epoch = request.after_epoch if request.HasField("after_epoch") else None
        session = await self._store.claim(request.session_id, request.replica, after_epoch, request.viewer)
        log.info("session claimed", session=session.session_id, replica=session.replica, epoch=session.epoch)
        return session

    # grpc.aio also takes a coroutine that writes to the context; the stubs know generators only.
    async def Push(  # type: ignore[override]
        self, request_iterator: AsyncIterator[PushRequest], context: Context
    ) -> None:
        first = await anext(request_iterator, None)
        if first is None:
            return
        session_id = first.event.session_id
        with self._streaming(), self._pushing(session_id):
            # Receipts are read from this point on, so that none is missed before the first read.
            attached = await self._store.attach(session_id)
            push = _Push(self._store, session_id, attached.newest_receipt, context)
            await until_one_ends(
                push.store_all(first, request_iterator, self._settings.linger_s),
                push.bring_obeyed(),
                self._until_stopping(),
            )

    async def Follow(  # type: ignore[override]
        self, request_iterator: AsyncIterator[FollowRequest], context: Context
    ) -> None:
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("seat"):
            raise BadRequest("seat", "is missing; the first message says which session and epoch")
        seat = first.seat
        session = (await self._store.attach(seat.session_id)).session
        await self._store.renew(seat.session_id, seat.epoch)
        live = telemetry.SESSIONS_LIVE.labels(session.tenant, session.model.name)
        with self._streaming():
            live.inc()
            try:
                await until_one_ends(
                    self._bring_controls(seat, context),
                    self._publish_obeyed(seat, request_iterator),
                    self._until_stopping(),
                )
            except SessionClosed:
                return
            finally:
                live.dec()
                # An engine that is still there will follow through another instance, and keeps its seat.
                if not self._stopping.is_set():
                    await self._release(seat)

    async def _bring_controls(self, seat: Seat, context: Context) -> None:
        after, renew_period_s = f"{seat.after_seq}-0".encode(), self._limits.live_seat_s / 3
        loop = asyncio.get_running_loop()
        renew_at_s = heard_at_s = loop.time()
        while True:
            try:
                if loop.time() >= renew_at_s:
                    await self._store.renew(seat.session_id, seat.epoch)
                    renew_at_s = loop.time() + renew_period_s
                after, controls = await self._store.read_controls(seat.session_id, seat.epoch, after)
                heard_at_s = loop.time()
            except StoreUnavailable as error:
                if loop.time() - heard_at_s > self._settings.outage_s:
                    raise
                log.warning("redis missed", session=seat.session_id, error=error.message)
                await asyncio.sleep(0.1)
                continue
            for control in controls:
                await context.write(control)

    async def _publish_obeyed(self, seat: Seat, requests: AsyncIterator[FollowRequest]) -> None:
        """Ends when the engine has said its last, which gives the seat up."""
        async for request in requests:
            if not request.HasField("obeyed"):
                raise BadRequest("said", "must be `obeyed` after the first message")
            try:
                await self._store.obeyed(seat.session_id, seat.epoch, request.obeyed)
            except StoreUnavailable as error:
                log.warning("receipt lost", session=seat.session_id, error=error.message)

    async def _release(self, seat: Seat) -> None:
        try:
            await self._store.release(seat.session_id, seat.epoch)
            log.info("session released", session=seat.session_id, epoch=seat.epoch)
        except ServiceError as error:  # the seat lapses by itself
            log.warning("release failed", session=seat.session_id, reason=error.reason)

    @contextlib.contextmanager
    def _streaming(self) -> Iterator[None]:
        """Lets `stop` wait for this stream."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            yield
        finally:
            self._streams.discard(task)

    @contextlib.contextmanager
    def _pushing(self, session_id: str) -> Iterator[None]:
        """Counts a Push call of the session. Raises BadRequest where there are as many as there may be."""
        most = self._settings.pushes_per_session
        if self._pushes[session_id] >= most:
            message = f"{most} calls push its controls already; send through one of them, or end one first"
            raise BadRequest("event.session_id", message)
        self._pushes[session_id] += 1
        try:
            yield
        finally:
            self._pushes[session_id] -= 1
            if not self._pushes[session_id]:
                del self._pushes[session_id]

    async def _until_stopping(self) -> None:
        await self._stopping.wait()
        raise PeerUnavailable("this instance of sessions is stopping; call again", retry_after_s=0.1)


class _Push:
    """One Push call: each control's accepted receipt is written before its obeyed one."""

    def __init__(self, store: SessionStore, session_id: str, newest_receipt: bytes, context: Context) -> None:
        self._store = store
        self._session_id = session_id
        self._newest_receipt = newest_receipt
        self._context = context
        # Held from storing a control to writing its receipt; an obeyed one that was quicker waits.
        self._receipting = asyncio.Lock()
        self._stored_seq = 0
        self._obeyed_seq = 0
        self._caught_up = asyncio.Event()

    async def store_all(
        self, first: PushRequest, others: AsyncIterator[PushRequest], linger_s: float
    ) -> None:
        await self._store_one(first)
        async for request in others:
            await self._store_one(request)
        if self._obeyed_seq < self._stored_seq:
            self._caught_up.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._caught_up.wait(), linger_s)

    async def bring_obeyed(self) -> None:
        while True:
            self._newest_receipt, receipts = await self._store.read_receipts(
                self._session_id, self._newest_receipt
            )
            for receipt in receipts:
                async with self._receipting:
                    await self._context.write(receipt)
                self._obeyed_seq = max(self._obeyed_seq, receipt.seq)
            if self._obeyed_seq >= self._stored_seq:
                self._caught_up.set()

    async def _store_one(self, request: PushRequest) -> None:
        event = request.event
        if event.session_id != self._session_id:
            raise BadRequest("event.session_id", "differs from the first; push each session on its own call")
        async with self._receipting:
            newer = await self._store.push(
                self._session_id, FollowResponse(event=event, received_at_s=request.received_at_s)
            )
            if newer is None:
                self._stored_seq = event.seq
                receipt = ControlReceipt(seq=event.seq, accepted=Accepted())
            else:
                message = f"seq {event.seq} is not above {newer}, the newest stored; go on from there"
                receipt = ControlReceipt(seq=event.seq, refused=Refused(reason="old_seq", message=message))
            await self._context.write(receipt)
