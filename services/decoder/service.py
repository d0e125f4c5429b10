"""`DecoderService`: the decoder on a gRPC port."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import torch

from aapt.shapes import FRAMES_PER_LATENT, latent_of
from livevideo.v1 import frame_pb2_grpc, resume_pb2_grpc, session_pb2_grpc
from livevideo.v1.frame_pb2 import WatchRequest, WatchResponse, WatchStart
from livevideo.v1.session_pb2 import SESSION_STATE_CLOSED, GetRequest, Session
from services import telemetry
from services.app import Context, open_channel
from services.channel import Channel
from services.credentials import carried
from services.decoder.clock import FrameClock
from services.decoder.codec import Codec
from services.decoder.continuity import Continuity
from services.decoder.encoders import encoder_for
from services.decoder.outcome import viewing
from services.decoder.playback import Playback
from services.decoder.room import Room
from services.decoder.source import LatentSource, Patience
from services.endings import ended
from services.errors import BadRequest, BadSetting, ServiceStopping, ViewerGone
from services.tls import Tls
from services.tracing import Tracer, Tracing

if TYPE_CHECKING:
    from livevideo.v1.resume_pb2_grpc import ResumeServiceAsyncStub
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

log = telemetry.logger("decoder")

_LEAVE_EVERY_S = 0.05  # between two viewers that are sent elsewhere
_LEAVE_S = 3.0  # longest wait for the frames that they were promised


@dataclass(frozen=True)
class Settings:
    """One decoder instance; any instance serves any session."""

    address: str = "127.0.0.1:50054"  # where it listens
    metrics_port: int = 0  # 0: no metrics
    sessions_address: str = "127.0.0.1:50062"  # internal address of *sessions*, host:port
    checkpoint: str = "checkpoints/road"  # folder; only its codec is read
    device: str = ""  # "cuda:1", "cpu"; empty: the first GPU, or the CPU where there is none
    playout_delay_s: float = 0.03  # frames wait this long, so that a latent may be a little late
    latents_in_flight: int = 3  # made, but not shown to their end
    past_latents: int = 32  # kept for the next engine, besides the first two; the model's window + 2 or more
    first_message_s: float = 5.0  # longest wait for a viewer to name the session
    write_s: float = 2.0  # longest wait for a viewer to take a frame; as long as an engine waits for credit
    patience_s: float = 5.0  # how long a broken session is tried again
    hang_s: float = 0.8  # an engine that owes a latent for so long is given up
    seated_s: float = 3.0  # and one that owes a seat to a session that was played already
    opened_s: float = 10.0  # or to a new one
    jpeg_quality: int = 90  # 1 to 95
    key_period_s: float = 2.0  # between two key frames of H.264
    codec_threads: int = 1  # sessions that are decoded at the same time
    torch_threads: int = 1  # for each of them
    headroom: float = 0.8  # share of their time that may be spent, or no more viewers are taken
    # What a viewer takes: the codec's tails, the latents that are kept, the frames that wait.
    session_bytes: int = 64 << 20
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)

    def __post_init__(self) -> None:
        for name in ("codec_threads", "torch_threads", "latents_in_flight", "past_latents"):
            if getattr(self, name) < 1:
                raise BadSetting(f"{name.upper()} is {getattr(self, name)}; it must be 1 or more")
        if not 0 < self.headroom <= 1:
            raise BadSetting(f"HEADROOM is {self.headroom}; it must be above 0 and at most 1")
        if not 1 <= self.jpeg_quality <= 95:
            raise BadSetting(f"JPEG_QUALITY is {self.jpeg_quality}; it must be from 1 to 95")


class DecoderService(frame_pb2_grpc.FrameServiceServicer):
    """Turns latents into frames, at their pace, for as long as the viewer shows them."""

    name = "decoder"

    def __init__(self, codec: Callable[[], Codec], settings: Settings) -> None:
        """codec: makes one for each viewer."""
        self._codec = codec
        self._settings = settings
        self._executor = ThreadPoolExecutor(
            settings.codec_threads, "codec", torch.set_num_threads, (settings.torch_threads,)
        )
        self._tracer = Tracer(self.name, settings.tracing)
        self._channel: Channel | None = None
        self._playbacks: set[Playback] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._is_stopping = False
        self._room = Room(
            threads=settings.codec_threads, headroom=settings.headroom, session_bytes=settings.session_bytes
        )

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        frame_pb2_grpc.add_FrameServiceServicer_to_server(self, server)
        return ("livevideo.v1.FrameService",)

    async def start(self) -> None:
        self._channel = open_channel(self._settings.sessions_address, self._settings.tls)

    def trouble(self) -> str | None:
        """Why nobody can watch, where that is so."""
        return self._channel.trouble("sessions") if self._channel else None

    async def stop(self) -> None:
        self._is_stopping = True
        for playback in [*self._playbacks]:
            playback.end(ServiceStopping("this decoder stops; watch at another", retry_after_s=0.0))
            await asyncio.sleep(_LEAVE_EVERY_S)  # the next decoder needs a moment for each
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await self._emptied.wait()
        if self._channel is not None:
            await self._channel.close()
        self._executor.shutdown(wait=False)
        await self._tracer.stop()

    # grpc.aio also takes a coroutine that writes to the context; the stubs know generators only.
    async def Watch(  # type: ignore[override]
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> None:
        start = await _first(request_iterator, self._settings.first_message_s)
        if self._is_stopping:
            raise ServiceStopping("this decoder stops; watch at another", retry_after_s=0.0)
        asked_at_s = time.monotonic()
        telemetry.concerns(session=start.session_id)
        session = await self._sessions.Get(
            GetRequest(session_id=start.session_id), timeout=5.0, metadata=carried(context)
        )
        telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
        continuity = Continuity(session, asked_at_s=asked_at_s, from_frame=start.from_frame_index)
        with viewing(session):
            await self._watch(start, session, continuity, request_iterator, context)

    async def _watch(
        self,
        start: WatchStart,
        session: Session,
        continuity: Continuity,
        requests: AsyncIterator[WatchRequest],
        context: Context,
    ) -> None:
        if session.state == SESSION_STATE_CLOSED:
            raise ended(f"session {start.session_id}", session.ended)
        self._room.check(len(self._playbacks), FRAMES_PER_LATENT / session.model.frames_per_second)
        playback = self._playback(start, session, continuity)
        tasks = [
            asyncio.create_task(playback.render()),
            asyncio.create_task(_take_shown(requests, playback)),
        ]
        self._playbacks.add(playback)
        self._emptied.clear()
        log.info("watch began", format=start.format)
        try:
            async with aclosing(playback.responses()) as responses:
                async for response in responses:
                    await self._write(response, context)
        finally:
            self._playbacks.discard(playback)
            if not self._playbacks:
                self._emptied.set()
            for task in tasks:
                task.cancel()
            # How it ended is said behind the frames that were sent; whoever does not read them keeps no call.
            call = asyncio.current_task()
            assert call is not None
            asyncio.get_running_loop().call_later(self._settings.write_s, call.cancel)
            log.info("watch ended")

    async def _write(self, response: WatchResponse, context: Context) -> None:
        """Raises ViewerGone when the viewer does not take it."""
        try:
            async with asyncio.timeout(self._settings.write_s):
                await context.write(response)
        except TimeoutError as error:
            message = (
                f"no frame was read for {self._settings.write_s:g} s, so the seat was given up; watch again"
            )
            raise ViewerGone(message) from error

    def _playback(self, start: WatchStart, session: Session, continuity: Continuity) -> Playback:
        settings, model = self._settings, session.model
        encoder = encoder_for(
            start.format, model, jpeg_quality=settings.jpeg_quality, key_period_s=settings.key_period_s
        )
        patience = Patience(
            broken_s=settings.patience_s,
            hang_s=max(settings.hang_s, 4 * FRAMES_PER_LATENT / model.frames_per_second),
            seated_s=settings.seated_s,
            opened_s=settings.opened_s,
        )
        source = LatentSource(
            self._resume,
            start.session_id,
            limit=settings.latents_in_flight,
            kept=settings.past_latents,
            patience=patience,
            from_index=latent_of(start.from_frame_index),
            tls=settings.tls,
        )
        return Playback(
            source,
            session,
            self._codec(),
            encoder,
            FrameClock(model.frames_per_second, settings.playout_delay_s),
            continuity,
            self._executor,
            latents_in_flight=settings.latents_in_flight,
            from_frame=start.from_frame_index,
            on_rendered=self._room.rendered,
            tracer=self._tracer,
        )

    @property
    def _resume(self) -> "ResumeServiceAsyncStub":
        assert self._channel is not None, "start() comes before the first call"
        return resume_pb2_grpc.ResumeServiceStub(self._channel)

    @property
    def _sessions(self) -> "SessionServiceAsyncStub":
        assert self._channel is not None, "start() comes before the first call"
        return session_pb2_grpc.SessionServiceStub(self._channel)


async def _first(requests: AsyncIterator[WatchRequest], within_s: float) -> WatchStart:
    try:
        async with asyncio.timeout(within_s):
            first = await anext(requests, None)
    except TimeoutError as error:
        message = f"no message came within {within_s:g} s; name the session at once"
        raise BadRequest("start.session_id", message) from error
    if first is None or first.WhichOneof("said") != "start" or not first.start.session_id:
        raise BadRequest("start.session_id", "the first message of Watch must name a session")
    return first.start


async def _take_shown(requests: AsyncIterator[WatchRequest], playback: Playback) -> None:
    try:
        async for request in requests:
            if request.WhichOneof("said") != "shown":
                raise BadRequest("shown", "after `start` only `shown` is taken")
            playback.shown(request.shown.frame_index)
    except BadRequest as refusal:
        playback.end(refusal)
