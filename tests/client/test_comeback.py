"""A client comes back: what it says again, and what it does not."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc
import pytest

from livevideo.v1 import control_pb2_grpc, frame_pb2_grpc
from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Keys, Refused
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8, Frame, WatchRequest, WatchResponse
from livevideo.v1.session_pb2 import Session
from livevideo_client import comeback
from livevideo_client.comeback import Comebacks, Sender, Silence, Viewer
from services.app import Context, Service
from services.errors import SeatTaken, Superseded

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Quiet:
    """A service that needs no starting."""

    name = "quiet"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass
class BreakingDecoder(Quiet, frame_pb2_grpc.FrameServiceServicer):
    """Call i sends so many frames, then breaks as it is told."""

    calls: list[tuple[int, Exception | grpc.StatusCode]]
    starts: list[int] = field(default_factory=list)

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        frame_pb2_grpc.add_FrameServiceServicer_to_server(self, server)
        return ("livevideo.v1.FrameService",)

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


@dataclass
class BreakingControl(Quiet, control_pb2_grpc.ControlServiceServicer):
    """Stores every control once; from control `breaks_at` on, the first call stores and says nothing."""

    breaks_at: int
    stored: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    calls: int = 0

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return ("livevideo.v1.ControlService",)

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Context
    ) -> AsyncIterator[ControlReceipt]:
        self.calls += 1
        is_first = self.calls == 1
        async for event in request_iterator:
            self.heard.append(event.seq)
            is_old = event.seq in self.stored
            if not is_old:
                self.stored.append(event.seq)
            if is_first and event.seq == self.breaks_at + 1:
                await context.abort(UNAVAILABLE, "broken on purpose")
            if is_old:
                yield ControlReceipt(seq=event.seq, refused=Refused(reason="old_seq"))
            elif not is_first or event.seq < self.breaks_at:
                yield ControlReceipt(seq=event.seq, accepted=Accepted())


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


async def test_controls_that_nobody_has_heard_of_are_sent_again_and_stored_once(
    serve: Serve, dial: Dial
) -> None:
    control = BreakingControl(breaks_at=3)
    sender = Sender([control_pb2_grpc.ControlServiceStub(dial(await serve(control)))], Session())
    for seq in range(1, 5):
        sender.send(ControlEvent(seq=seq, keys=Keys()))
    accepted = []
    async with asyncio.timeout(20), aclosing(sender.receipts()) as receipts:
        async for receipt in receipts:
            assert receipt.HasField("accepted")
            accepted.append(receipt.seq)
            if receipt.seq == 4:
                sender.send(ControlEvent(seq=5, keys=Keys()))
            if receipt.seq == 5:
                break
    assert accepted == [1, 2, 3, 4, 5]
    assert control.stored == [1, 2, 3, 4, 5]
    assert control.heard == [1, 2, 3, 4, 3, 4, 5]
    assert sender.comebacks.count == 1


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
