"""`EngineService`: the engine on a gRPC port. Its part is to let go of everything, however a call ends."""

import asyncio
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from livevideo.v1 import engine_pb2_grpc, session_pb2_grpc
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse, Seated, Start
from livevideo.v1.session_pb2 import AnnounceRequest, ClaimRequest, Model, Session
from services import telemetry
from services.app import open_channel, until_one_ends
from services.engine.engine import Engine, Tick
from services.engine.feed import ControlFeed
from services.engine.gpus import Gpus
from services.engine.latents import first_frame, to_message, to_past
from services.engine.mailbox import Mailbox
from services.engine.residence import Residence
from services.engine.steering import values_per_frame
from services.engine.world import World
from services.errors import BadRequest, BadSetting
from services.tls import Tls

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SeatServiceAsyncStub

log = telemetry.logger("engine")

_CLAIM_TIMEOUT_S = 5.0
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
    phases: int = 1  # sessions step together in so many groups, one after the other within a period
    warm_up_steps: int = 8  # measured past the window before anybody is seated; 0: none
    # Left for one more session: its window when it is resumed, its latents that wait, its first picture.
    session_bytes: int = 64 << 20
    torch_threads: int = 1  # for each step
    credit_timeout_s: float = 2.0  # a seat without credit is given up after this
    announce_period_s: float = 1.0  # between two announcements to *sessions*
    tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        for name, least in (("slots", 1), ("phases", 1), ("warm_up_steps", 0), ("torch_threads", 1)):
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
        self.engine = Engine(
            world,
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
        await asyncio.to_thread(self.gpus.stop)
        await self.engine.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._channel is not None and self._address:
            with suppress(grpc.aio.AioRpcError):
                await self._sessions.Announce(self._announcement(), timeout=1.0)
        if self._channel is not None:
            await self._channel.close()

    async def Generate(
        self, request_iterator: AsyncIterator[GenerateRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[GenerateResponse]:
        start = await _first(request_iterator)
        residence = self.engine.admit()
        tasks: list[asyncio.Task[None]] = []
        try:
            session = await self._sessions.Claim(
                ClaimRequest(session_id=start.session_id, replica=self._replica),
                timeout=_CLAIM_TIMEOUT_S,
            )
            self._tenants[residence] = session.tenant
            telemetry.SESSIONS_LIVE.labels(session.tenant, self._model.name).inc()
            mailbox = self._mailbox(start, session)
            feed = ControlFeed(self._sessions, session.session_id, session.epoch, residence, mailbox)
            tasks += [
                asyncio.create_task(feed.run(self.engine.clock)),
                asyncio.create_task(self._take_credits(request_iterator, residence)),
            ]
            await self._seat(residence, mailbox, session, start)
            log.info("session seated", session=session.session_id, slot=residence.slot, epoch=session.epoch)
            next_index = start.past[-1].index + 1 if start.past else 0
            feed.made(next_index)
            yield GenerateResponse(
                seated=Seated(epoch=session.epoch, model=self._model, next_index=next_index)
            )
            while (made := await residence.take()) is not None:
                feed.obeyed(made.turn.seqs, first_frame(made.index))
                feed.made(made.index + 1)
                yield GenerateResponse(latent=to_message(made))
        finally:
            residence.end()
            for task in tasks:
                task.cancel()
            if (tenant := self._tenants.pop(residence, None)) is not None:
                telemetry.SESSIONS_LIVE.labels(tenant, self._model.name).dec()
            log.info(
                "session left", session=start.session_id, slot=residence.slot, latents=residence.next_index
            )

    async def _seat(self, residence: Residence, mailbox: Mailbox, session: Session, start: Start) -> None:
        try:
            if start.past:
                past = to_past(start.past, values_per_frame(self._model.keys, self._model.tracks))
                await self.engine.resume(residence, mailbox, past, session.prompt, session.seed)
            else:
                image = _picture(session.image) if session.image else None
                await self.engine.open(residence, mailbox, image, session.prompt, session.seed)
        except ValueError as error:
            raise BadRequest("start.past" if start.past else "image", str(error)) from error

    def _mailbox(self, start: Start, session: Session) -> Mailbox:
        keys = tuple(self._model.keys)
        if not start.past:
            # A world that begins again is told what is held, not what was ever done.
            return Mailbox(keys, obeyed_seq=session.newest_seq if session.epoch > 1 else 0)
        newest = start.past[-1]
        held = [key for key, value in zip(keys, newest.controls[-len(keys) :], strict=False) if value]
        return Mailbox(keys, obeyed_seq=newest.control_seq, held=held)

    async def _take_credits(self, requests: AsyncIterator[GenerateRequest], residence: Residence) -> None:
        # A client that says no more is not gone yet: its credits are spent first, then its time runs out.
        async for request in requests:
            if request.WhichOneof("said") != "credit" or request.credit.latents < 1:
                residence.end(
                    BadRequest("credit.latents", "after `start` only credits of 1 or more are taken")
                )
                return
            residence.grant(request.credit.latents, self.engine.clock())

    async def _run(self) -> None:
        # An engine whose ticks have failed announces nothing more, so nobody else is seated there.
        try:
            await until_one_ends(self.engine.run(), self._announce())
        except Exception as error:
            log.exception("engine failed", error)
            self._failure = f"the engine has failed: {error!r}"
            await self.engine.stop()  # nobody is left in a world that stands still

    async def _announce(self) -> None:
        is_heard = True
        while True:
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
            slots=self.engine.slots_offered,
            step_s=self.engine.step_s,
        )

    def _observe(self, tick: Tick) -> None:
        model = self._model.name
        for lateness_s in tick.lateness_s:
            telemetry.TICK_LATENESS.labels(model).observe(lateness_s)
        if tick.step_s:
            telemetry.STEP.labels(model).observe(tick.step_s)
        for residence, reason in tick.skipped:
            telemetry.LATENTS_SKIPPED.labels(self._tenants.get(residence, ""), model, reason).inc()
        telemetry.SLOTS_FREE.labels(model).set(self.engine.slots_free)

    @property
    def _sessions(self) -> "SeatServiceAsyncStub":
        assert self._channel is not None, "start() comes before the first call"
        return session_pb2_grpc.SeatServiceStub(self._channel)


async def _first(requests: AsyncIterator[GenerateRequest]) -> Start:
    async for request in requests:
        if request.WhichOneof("said") == "start" and request.start.session_id:
            return request.start
        break
    raise BadRequest("start.session_id", "the first message of Generate must name a session")


def _picture(image: bytes) -> Tensor:
    """[h, w, 3] uint8. Raises BadRequest."""
    try:
        with Image.open(io.BytesIO(image), formats=("PNG",)) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BadRequest("image", f"it cannot be read as PNG: {error}") from error
