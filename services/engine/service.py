"""`EngineService`: the engine on a gRPC port. Its part is to let go of everything, however a call ends."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from livevideo.v1 import engine_pb2_grpc, log_pb2_grpc, resume_pb2_grpc, session_pb2_grpc
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services import telemetry
from services.app import open_channel, until_one_ends
from services.engine.engine import Engine, Tick
from services.engine.gpus import Gpus
from services.engine.logbook import Logbook
from services.engine.recorded import MOST_VERBS, RecordedWorld, made_with
from services.engine.residence import Residence
from services.engine.seating import House, Seating, first
from services.engine.snapshots import Snapshots
from services.engine.stays import Stays
from services.engine.world import World
from services.errors import BadSetting, ServiceStopping
from services.tls import Tls
from services.traceparent import exemplar
from services.tracing import Tracer, Tracing

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SeatServiceAsyncStub

log = telemetry.logger("engine")

_RETRY_S = 0.2


@dataclass(frozen=True)
class Settings:
    """One engine replica."""

    address: str = "127.0.0.1:50053"  # where it listens
    advertised_address: str = ""  # where decoders reach it; empty: `address`
    metrics_port: int = 0  # 0: no metrics
    sessions_address: str = "127.0.0.1:50062"  # internal address of *sessions*, host:port
    replica: str = ""  # unique and stable while it lives; empty: a random name
    checkpoint: str = "checkpoints/road"  # folder
    device: str = ""  # "cuda:1", "cpu"; empty: the first GPU, or the CPU where there is none
    is_compiled: bool = False  # torch.compile: a faster step after minutes of starting
    fp8: bool = False  # linear layers in fp8; needs torchao
    slots: int = 4  # how many sessions the cache has room for
    headroom: float = 0.8  # share of each period that steps may take
    # Sessions step together in so many groups, one after the other within a period; 0: as many as cost next
    # to no seat, by what steps take.
    phases: int = 0
    warm_up_steps: int = 8  # measured past the window before anybody is seated; 0: none
    # Left for one more session: its window when it is resumed, its latents that wait, its first picture.
    session_bytes: int = 64 << 20
    torch_threads: int = 1  # for each step
    credit_timeout_s: float = 2.0  # a seat without credit is given up after this
    announce_period_s: float = 1.0  # between two announcements to *sessions*
    is_drained: bool = True  # once it is told to stop, sessions move to other replicas first
    leave_s: float = 20.0  # longest time for that
    past_latents: int = 32  # kept of each session for a viewer that comes back; at least what the world needs
    kept_s: float = 30.0  # so long after its stay has ended
    silence_s: float = 1.0  # a viewer without a sign of life for so long loses its seat to one that comes
    is_snapshotted: bool = True  # what must outlive engine and decoder goes to *sessions*
    snapshot_period_s: float = 2.0  # how often
    is_logged: bool = True  # what sessions can be played again from goes to *sessions*
    log_period_s: float = 1.0  # how often
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)

    def __post_init__(self) -> None:
        least_of = {"slots": 1, "phases": 0, "warm_up_steps": 0, "torch_threads": 1, "past_latents": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise BadSetting(f"{name.upper()} is {getattr(self, name)}; it must be {least} or more")
        if not 0 < self.headroom <= 1:
            raise BadSetting(f"HEADROOM is {self.headroom}; it must be above 0 and at most 1")


class EngineService(engine_pb2_grpc.EngineServiceServicer):
    """Seats sessions in an engine, and announces to *sessions* what room there is."""

    name = "engine"

    def __init__(self, world: World, model: Model, settings: Settings, gpus: Gpus | None = None) -> None:
        """gpus: those to watch; default all that this process sees."""
        self._model = model
        self._settings = settings
        self._replica = settings.replica or f"engine-{np.random.SeedSequence().entropy:032x}"[:20]
        self._address = settings.advertised_address
        self._recorded = RecordedWorld(
            world, made_with(Path(settings.checkpoint)), MOST_VERBS if settings.is_logged else 0
        )
        self._logbook = Logbook(self._recorded, settings.log_period_s)
        self.engine = Engine(
            self._recorded,
            keys=tuple(model.keys),
            tracks=tuple(model.tracks),
            frames_per_second=model.frames_per_second,
            credit_timeout_s=settings.credit_timeout_s,
            headroom=settings.headroom,
            phases=settings.phases,
            session_bytes=settings.session_bytes,
            torch_threads=settings.torch_threads,
            on_tick=self._observe,
        )
        self.gpus = gpus or Gpus(self._replica)
        self.stays = Stays(
            silence_s=max(settings.silence_s, 4 * self.engine.period_s),
            kept_s=settings.kept_s,
            most_kept=2 * settings.slots,
            clock=self.engine.clock,
        )
        self._tracer = Tracer(self.name, settings.tracing)
        self._is_leaving = asyncio.Event()
        self._tenants: dict[Residence, str] = {}
        self._channel: grpc.aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._unheard: str | None = None

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return ()

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        engine_pb2_grpc.add_EngineServiceServicer_to_server(self, server)
        return ("livevideo.v1.EngineService",)

    def reached_at(self, address: str) -> None:
        """Tell where decoders reach this replica; until that is known it is not announced."""
        self._address = address

    def failure(self) -> str | None:
        """Why this replica is of no use any more, where that is so: it must be replaced."""
        return self._failure or self.gpus.trouble()

    def trouble(self) -> str | None:
        """Why this replica can seat nobody, where that is so."""
        return self.failure() or self.engine.trouble or self._unheard

    async def start(self) -> None:
        self.gpus.start()
        if self._settings.warm_up_steps:
            await self.engine.warm_up(self._settings.warm_up_steps)
        self._channel = open_channel(self._settings.sessions_address, self._settings.tls)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        await self._leave()
        await asyncio.to_thread(self.gpus.stop)
        await self.engine.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None and self._address:
            with suppress(grpc.aio.AioRpcError):
                await self._sessions.Announce(self._announcement(), timeout=1.0)
        if self._channel is not None:
            await self._logbook.send(log_pb2_grpc.LogServiceStub(self._channel))
            await self._channel.close()
        await self._tracer.stop()

    async def _leave(self) -> None:
        """Let sessions move to other replicas, each when its decoder has had its world built up there."""
        self._is_leaving.set()
        if self._channel is None or self.failure() or not self._settings.is_drained or not len(self.stays):
            return
        log.info("engine leaves", sessions=len(self.stays))
        with suppress(grpc.aio.AioRpcError):  # nobody else is seated here, from now on
            await self._sessions.Announce(self._announcement(), timeout=1.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.leave_s):
                await self.stays.until_empty()
        log.info("engine left", sessions_behind=len(self.stays))

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[GenerateResponse]:
        start = await first(request_iterator)
        telemetry.concerns(session=start.session_id)
        if self._is_leaving.is_set():
            raise ServiceStopping("this engine stops; go on with another", retry_after_s=0.5)
        await self.stays.make_way(start.session_id)
        residence = self.engine.admit()
        stay = self.stays.enter(start.session_id, residence)
        seating = Seating(self._house, start, stay, request_iterator)
        try:
            async with aclosing(seating.responses(self._is_leaving)) as responses:
                async for response in responses:
                    self._count_in(residence, seating.session)
                    yield response
        finally:
            seating.end()
            if (tenant := self._tenants.pop(residence, None)) is not None:
                telemetry.SESSIONS_LIVE.labels(telemetry.tenant_label(tenant), self._model.name).dec()
            log.info("session left", slot=residence.slot, latents=residence.next_index)

    def _count_in(self, residence: Residence, session: Session | None) -> None:
        if session is not None and residence not in self._tenants:
            self._tenants[residence] = session.tenant
            self._recorded.name(residence.slot, session.session_id, session.tenant, session.epoch)
            telemetry.SESSIONS_LIVE.labels(telemetry.tenant_label(session.tenant), self._model.name).inc()

    async def _run(self) -> None:
        # An engine whose ticks have failed announces nothing more, so nobody else is seated there.
        try:
            assert self._channel is not None
            logs = log_pb2_grpc.LogServiceStub(self._channel)
            await until_one_ends(self.engine.run(), self._announce(), self._logbook.run(logs))
        except Exception as error:
            log.exception("engine failed", error)
            self._failure = f"the engine has failed: {error!r}"
            await self.engine.stop()  # nobody is left in a world that stands still

    async def _announce(self) -> None:
        is_heard = True
        while True:
            seats_free = 0 if self._seats_nobody else self.engine.seats_free
            telemetry.SEATS_FREE.labels(self._model.name).set(seats_free)
            if self._address:
                try:
                    await self._sessions.Announce(
                        self._announcement(), timeout=self._settings.announce_period_s
                    )
                    is_heard, self._unheard = True, None
                except grpc.aio.AioRpcError as error:
                    if is_heard:
                        log.warning(
                            "announcement not heard", status=error.code().name, details=error.details()
                        )
                    is_heard = False
                    self._unheard = f"sessions does not hear it: {error.details()}"
            if self.engine.trouble:
                await self.engine.probe()
            period_s = self._settings.announce_period_s
            await asyncio.sleep(period_s if is_heard else min(_RETRY_S, period_s))

    def _announcement(self) -> AnnounceRequest:
        return AnnounceRequest(
            replica=self._replica,
            address=self._address,
            model=self._model,
            slots=0 if self._seats_nobody else self.engine.slots_offered,
            step_s=self.engine.step_s,
        )

    @property
    def _seats_nobody(self) -> bool:
        """It drains, or is of no use any more."""
        return self._is_leaving.is_set() or self.failure() is not None

    def _observe(self, tick: Tick) -> None:
        model = self._model.name
        for lateness_s in tick.lateness_s:
            telemetry.TICK_LATENESS.labels(model).observe(lateness_s)
        if tick.step_s:
            telemetry.STEP.labels(model).observe(tick.step_s, exemplar(tick.traceparent))
        for residence, reason in tick.skipped:
            tenant = telemetry.tenant_label(self._tenants.get(residence, ""))
            telemetry.LATENTS_SKIPPED.labels(tenant, model, reason).inc()

    @property
    def _sessions(self) -> "SeatServiceAsyncStub":
        assert self._channel is not None, "start() comes before the first call"
        return session_pb2_grpc.SeatServiceStub(self._channel)

    @property
    def _house(self) -> House:
        assert self._channel is not None, "start() comes before the first call"
        settings = self._settings
        resume = resume_pb2_grpc.ResumeServiceStub(self._channel)
        return House(
            self._replica,
            self._model,
            self.engine,
            self.stays,
            self._sessions,
            resume,
            Snapshots(
                resume,
                period_s=settings.snapshot_period_s if settings.is_snapshotted else 0.0,
                first_s=2 * self.engine.period_s,
                latents=self.engine.past_needed,
            ),
            max(settings.past_latents, self.engine.past_needed),
            self._tracer,
        )
