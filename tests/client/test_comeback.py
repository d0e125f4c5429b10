"""A client comes back: what it says again, and what it does not."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc
import pytest

from livevideo.v1 import control_pb2_grpc, frame_pb2_grpc
from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Keys, Refused
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8, Frame, WatchRequest, WatchResponse
from livevideo.v1.session_pb2 import AnnounceRequest, OpenRequest, Session
from livevideo_client import comeback
from livevideo_client.comeback import Comebacks, Sender, Silence, Viewer
from services.app import Context, Service
from services.bench.faults.links import Link
from services.control import service as control
from services.errors import SeatTaken, Superseded
from tests.services.asking import Sessions

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


class HangingDecoder(Quiet, frame_pb2_grpc.FrameServiceServicer):
    """Sends one frame."""

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        frame_pb2_grpc.add_FrameServiceServicer_to_server(self, server)
        return ("livevideo.v1.FrameService",)

    async def Watch(
        self, request_iterator: AsyncIterator[WatchRequest], context: Context
    ) -> AsyncIterator[WatchResponse]:
        yield WatchResponse(frame=Frame(index=0))
        await asyncio.Event().wait()


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


@dataclass
class SlowControl(Quiet, control_pb2_grpc.ControlServiceServicer):
    """Accepts a control so long after it came; or says nothing."""

    after_s: float | None
    heard: list[int] = field(default_factory=list)

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return ("livevideo.v1.ControlService",)

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Context
    ) -> AsyncIterator[ControlReceipt]:
        async for event in request_iterator:
            self.heard.append(event.seq)
            if self.after_s is not None:
                await asyncio.sleep(self.after_s)
                yield ControlReceipt(seq=event.seq, accepted=Accepted())


@dataclass
class Heard:
    """The receipts of a sender, as they come."""

    sender: Sender
    outcomes: dict[int, str | None] = field(default_factory=dict)

    async def hear(self) -> None:
        async with aclosing(self.sender.receipts()) as receipts:
            async for receipt in receipts:
                self.outcomes[receipt.seq] = receipt.refused.reason or receipt.WhichOneof("outcome")

    async def until(self, count: int, hearing: "asyncio.Task[None]") -> None:
        """So many controls have a receipt. Raises what ended the sender."""
        async with asyncio.timeout(20):
            while len(self.outcomes) < count:
                if hearing.done():
                    hearing.result()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def hearing(sender: Sender) -> AsyncIterator[tuple[Heard, "asyncio.Task[None]"]]:
    heard = Heard(sender)
    task = asyncio.create_task(heard.hear())
    yield heard, task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def session(session_stub: Sessions, announcement: AnnounceRequest) -> Session:
    await session_stub.Announce(announcement)
    return await session_stub.Open(OpenRequest())


def up(session: Session, seq: int) -> ControlEvent:
    return ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=["up"]))


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


async def test_who_has_nothing_to_say_is_not_turned_away_by_control(
    serve: Serve, dial: Dial, sessions_address: str, session: Session
) -> None:
    settings = control.Settings(sessions_address=sessions_address, first_event_s=0.1)
    link = Link(await serve(control.ControlService(settings)))
    await link.open()
    sender = Sender([control_pb2_grpc.ControlServiceStub(dial(link.address))], session)
    async with hearing(sender) as (heard, task):
        await asyncio.sleep(0.3)
        assert not task.done(), "who only watches"
        sender.send(up(session, 1))
        await heard.until(1, task)
        link.drop()
        await asyncio.sleep(0.5)
        assert not task.done(), "who holds a key while control is replaced"
        sender.send(up(session, 2))
        await heard.until(2, task)
    assert heard.outcomes == {1: "accepted", 2: "accepted"}
    assert sender.comebacks.count == 1
    await link.close()


async def test_what_has_piled_up_in_an_outage_is_no_flood(
    serve: Serve, dial: Dial, sessions_address: str, session: Session
) -> None:
    service = control.ControlService(control.Settings(sessions_address=sessions_address))
    sender = Sender([control_pb2_grpc.ControlServiceStub(dial(await serve(service)))], session)
    for seq in range(1, 301):
        sender.send(up(session, seq))
    async with hearing(sender) as (heard, task):
        await heard.until(300, task)
    assert set(heard.outcomes.values()) == {"accepted"}
    assert sender.comebacks.count == 0


async def test_a_control_that_hangs_is_left_for_the_next_one_and_is_not_told_everything(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comeback, "SILENCE_S", 0.5)
    hung, good = SlowControl(after_s=None), SlowControl(after_s=0.0)
    stubs = [control_pb2_grpc.ControlServiceStub(dial(await serve(each))) for each in (hung, good)]
    sender = Sender(stubs, Session())
    for seq in range(1, 81):
        sender.send(ControlEvent(seq=seq, keys=Keys()))
    async with hearing(sender) as (heard, task):
        await heard.until(80, task)
    assert sender.told == 1
    assert hung.heard == [*range(1, comeback.MOST_UNHEARD + 1)]
    assert good.heard == [*range(1, 81)]


async def test_silence_counts_from_what_was_said_and_not_from_the_last_receipt(
    serve: Serve, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comeback, "SILENCE_S", 0.8)
    stub = control_pb2_grpc.ControlServiceStub(dial(await serve(SlowControl(after_s=0.4))))
    sender = Sender([stub], Session())
    async with hearing(sender) as (heard, task):
        sender.send(ControlEvent(seq=1, keys=Keys()))
        await heard.until(1, task)
        await asyncio.sleep(0.6)
        sender.send(ControlEvent(seq=2, keys=Keys()))
        await heard.until(2, task)
    assert sender.comebacks.count == 0


async def test_an_old_number_is_not_taken_for_one_that_was_said_again(serve: Serve, dial: Dial) -> None:
    stub = control_pb2_grpc.ControlServiceStub(dial(await serve(BreakingControl(breaks_at=9, stored=[1]))))
    sender = Sender([stub], Session())
    sender.send(ControlEvent(seq=1, keys=Keys()))
    async with hearing(sender) as (heard, task):
        await heard.until(1, task)
    assert heard.outcomes == {1: "old_seq"}


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
