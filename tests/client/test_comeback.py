"""A client comes back: what it says again, and what it does not."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc
import pytest

from livevideo.v1 import frame_pb2_grpc
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8, Frame, WatchRequest, WatchResponse
from livevideo.v1.session_pb2 import Session
from livevideo_client import comeback
from livevideo_client.comeback import Comebacks, Sender, Silence, Viewer
from services.app import Context, Service
from services.errors import SeatTaken, Superseded
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class BreakingDecoder(Scripted, frame_pb2_grpc.FrameServiceServicer):
    """Call i sends so many frames, then breaks as it is told."""

    calls: list[tuple[int, Exception | grpc.StatusCode]]
    starts: list[int] = field(default_factory=list)

    async def Watch(
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> AsyncIterator[WatchResponse]:
        start = (await anext(request_iterator)).start.from_frame_index
        frames, ending = self.calls[len(self.starts)]
        self.starts.append(start)
        for index in range(start, start + frames):
            yield WatchResponse(frame=Frame(index=index))
        if isinstance(ending, Exception):
            raise ending
        await context.abort(ending, "broken on purpose")


class HangingDecoder(Scripted, frame_pb2_grpc.FrameServiceServicer):
    """Sends one frame."""

    async def Watch(
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> AsyncIterator[WatchResponse]:
        yield WatchResponse(frame=Frame(index=0))
        await asyncio.Event().wait()


async def seen(viewer: Viewer) -> list[int]:
    async with aclosing(viewer.frames()) as frames:
        return [frame.index async for frame in frames]


async def test_a_viewer_asks_for_the_first_frame_that_it_has_not_seen(serve: Serve, dial: Dial) -> None:
    decoder = BreakingDecoder(
        [(3, UNAVAILABLE), (0, UNAVAILABLE), (4, UNAVAILABLE), (2, Superseded("it is"))]
    )
    viewer = Viewer(
        [frame_pb2_grpc.FrameServiceStub(dial(await serve(decoder)))], Session(), FRAME_FORMAT_RGB8
    )
    with pytest.raises(grpc.aio.AioRpcError) as ending:
        await seen(viewer)
    assert decoder.starts == [0, 3, 3, 7]
    assert viewer.comebacks.count == 2, "two tries in a row are one comeback"
    assert ending.value.code() is grpc.StatusCode.ABORTED, "somebody else has the seat; it is not fought for"


async def test_a_seat_that_is_taken_is_waited_for_only_by_who_had_it(serve: Serve, dial: Dial) -> None:
    taken = SeatTaken("it is")
    decoder = BreakingDecoder([(2, UNAVAILABLE), (0, taken), (1, Superseded("it is")), (0, taken)])
    stub = frame_pb2_grpc.FrameServiceStub(dial(await serve(decoder)))
    for starts in ([0, 2, 2], [0, 2, 2, 0]):
        with pytest.raises(grpc.aio.AioRpcError):
            await seen(Viewer([stub], Session(), FRAME_FORMAT_RGB8))
        assert decoder.starts == starts


async def test_nobody_comes_back_after_the_lease() -> None:
    comebacks = Comebacks(lease_s=0.0)
    await comebacks.again(Silence("no frame came"))
    with pytest.raises(Silence):
        await comebacks.again(Silence("no frame came"))


async def test_who_still_plays_steers_again_however_long_control_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(comeback, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    comebacks = Sender([], Session()).comebacks
    for _ in range(3):
        await comebacks.again(Silence("no receipt came"))
    assert comebacks.count == 1


async def test_what_has_never_worked_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(3600.0, step=3600.0)
    monkeypatch.setattr(comeback, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    comebacks = Sender([], Session(), first_lease_s=30.0).comebacks
    await comebacks.again(Silence("no receipt came"))
    with pytest.raises(Silence):
        await comebacks.again(Silence("no receipt came"))
    comebacks.heard()
    for _ in range(2):
        await comebacks.again(Silence("no receipt came"))


async def test_a_viewer_that_is_closed_ends_where_it_is_followed(serve: Serve, dial: Dial) -> None:
    viewer = Viewer(
        [frame_pb2_grpc.FrameServiceStub(dial(await serve(HangingDecoder())))], Session(), FRAME_FORMAT_RGB8
    )
    following = asyncio.create_task(seen(viewer))
    while not viewer.comebacks._has_worked:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    viewer.close()
    async with asyncio.timeout(5):
        assert await following == [0]
    assert await seen(viewer) == [], "nor does it begin again"
