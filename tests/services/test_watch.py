"""The decoder before viewers who do not keep to the rules: real gRPC, a small codec, and a quick engine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import numpy as np
import pytest

from aapt.presets import DEBUG
from aapt.vae.model import VideoVAE
from livevideo.v1 import engine_pb2_grpc, frame_pb2_grpc
from livevideo.v1.engine_pb2 import GenerateRequest, GenerateResponse, Latent, Seated
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8, Shown, WatchRequest, WatchResponse, WatchStart
from livevideo.v1.session_pb2 import AnnounceRequest, OpenRequest
from services import errors
from services.app import Context, Service
from services.decoder.codec import streaming
from services.decoder.service import DecoderService, Settings
from services.relay import from_status
from services.sessions.store import StoreLimits
from tests.services.asking import Sessions
from tests.services.scripted import Scripted

if TYPE_CHECKING:
    from livevideo.v1.frame_pb2_grpc import FrameServiceAsyncStub

Watching: TypeAlias = "grpc.aio.StreamStreamCall[WatchRequest, WatchResponse]"
Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
DEADLINE_S = 60.0
LIE = Shown(frame_index=2**64 - 1)


class QuickEngine(Scripted, engine_pb2_grpc.EngineServiceServicer):
    """One latent for each credit, at once: 128x80 pixels of nothing."""

    def __init__(self) -> None:
        self.made = 0
        self.is_left = asyncio.Event()

    async def Generate(
        self, requests: AsyncIterator[GenerateRequest], context: Context
    ) -> AsyncIterator[GenerateResponse]:
        shape = (DEBUG.vae.latent_channels, 10, 16)
        values = np.zeros(shape, "<f4").tobytes()
        await anext(requests)
        yield GenerateResponse(seated=Seated(epoch=1))
        try:
            async for request in requests:
                for _ in range(request.credit.latents):
                    yield GenerateResponse(latent=Latent(index=self.made, values=values, shape=shape))
                    self.made += 1
        finally:
            self.is_left.set()


class NotedDecoder(DecoderService):
    """Remembers the tasks of its calls."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(streaming(VideoVAE(DEBUG.vae).eval()), settings)
        self.calls: list[asyncio.Task[Any]] = []

    async def Watch(  # type: ignore[override]
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> None:
        call = asyncio.current_task()
        assert call is not None
        self.calls.append(call)
        await super().Watch(request_iterator, context)


@pytest.fixture
def limits() -> StoreLimits:
    """The engine here announces itself once."""
    return StoreLimits(lease_s=600.0)


@pytest.fixture
def engine() -> QuickEngine:
    return QuickEngine()


@pytest.fixture
def decoder(sessions_address: str) -> NotedDecoder:
    return NotedDecoder(Settings(sessions_address=sessions_address, first_message_s=1.0, write_s=0.5))


@pytest.fixture
async def frames(serve: Serve, dial: Dial, decoder: NotedDecoder) -> "FrameServiceAsyncStub":
    return frame_pb2_grpc.FrameServiceStub(dial(await serve(decoder)))


@pytest.fixture
async def watch(
    serve: Serve,
    engine: QuickEngine,
    session_stub: Sessions,
    frames: "FrameServiceAsyncStub",
    announcement: AnnounceRequest,
) -> Watching:
    """A session of a thousand frames a second, being watched; nothing is read or shown yet."""
    announcement.address = await serve(engine)
    announcement.model.frames_per_second = 1000
    await session_stub.Announce(announcement)
    session = await session_stub.Open(OpenRequest())
    call = frames.Watch()
    start = WatchStart(session_id=session.session_id, format=FRAME_FORMAT_RGB8)
    await call.write(WatchRequest(start=start))
    return call


async def read_until_refused(watch: Watching) -> errors.ServiceError:
    async def read_all() -> None:
        while await watch.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read_all(), DEADLINE_S)
    refusal = from_status(caught.value)
    assert refusal is not None
    return refusal


async def test_a_viewer_that_shows_what_it_does_not_read_is_let_go(
    watch: Watching, engine: QuickEngine, decoder: NotedDecoder
) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not engine.is_left.is_set():
            await watch.write(WatchRequest(shown=LIE))
            await asyncio.sleep(0.005)
    _, still_running = await asyncio.wait(decoder.calls, timeout=DEADLINE_S)
    assert not still_running, "the call ends although its viewer has neither read nor gone"
    refusal = await read_until_refused(watch)
    assert isinstance(refusal, errors.ViewerGone)
    assert refusal.message.startswith("no frame was read for 0.5 s")


async def test_a_frame_that_was_never_sent_counts_as_no_newer_than_the_newest_that_was(
    watch: Watching, engine: QuickEngine
) -> None:
    async def read_to(index: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                said = await watch.read()
                assert isinstance(said, WatchResponse)
                if said.HasField("frame") and said.frame.index == index:
                    return

    in_flight = Settings().latents_in_flight
    await read_to(4 * (in_flight - 1))
    assert engine.made == in_flight
    await watch.write(WatchRequest(shown=LIE))
    await read_to(4 * (2 * in_flight - 1))
    assert engine.made == 2 * in_flight
    watch.cancel()


async def test_a_viewer_that_says_nothing_is_not_waited_for(frames: "FrameServiceAsyncStub") -> None:
    refusal = await read_until_refused(frames.Watch())
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.message == "start.session_id: no message came within 1 s; name the session at once"


async def test_a_viewer_for_whom_there_is_no_time_is_refused_and_who_watches_stays(
    watch: Watching,
    decoder: NotedDecoder,
    frames: "FrameServiceAsyncStub",
    session_stub: Sessions,
) -> None:
    async def until_frame() -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not (isinstance(said := await watch.read(), WatchResponse) and said.HasField("frame")):
                pass

    await until_frame()
    for _ in range(64):
        decoder._room.rendered(0.01)  # a latent comes every 4 ms
    second = frames.Watch()
    session = await session_stub.Open(OpenRequest())
    await second.write(WatchRequest(start=WatchStart(session_id=session.session_id)))
    refusal = await read_until_refused(second)
    assert isinstance(refusal, errors.DecoderFull)
    assert refusal.retry_after_s
    await until_frame()
    watch.cancel()
