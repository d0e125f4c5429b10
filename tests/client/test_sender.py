"""Controls are told until somebody has heard of them: what is said again, how fast, and what is not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest

from livevideo.v1 import control_pb2_grpc
from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Keys, Refused
from livevideo.v1.session_pb2 import AnnounceRequest, OpenRequest, Session
from livevideo_client import comeback
from livevideo_client.comeback import Sender
from services.app import Context, Service
from services.bench.faults.links import Link
from services.control import service as control
from tests.services.asking import Sessions
from tests.services.scripted import Scripted

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass
class BreakingControl(Scripted, control_pb2_grpc.ControlServiceServicer):
    """Stores every control once; from control `breaks_at` on, the first call stores and says nothing."""

    breaks_at: int
    stored: list[int] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    calls: int = 0

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
class SlowControl(Scripted, control_pb2_grpc.ControlServiceServicer):
    """Accepts a control so long after it came; or says nothing."""

    after_s: float | None
    heard: list[int] = field(default_factory=list)

    async def Send(
        self, request_iterator: AsyncIterator[ControlEvent], context: Context
    ) -> AsyncIterator[ControlReceipt]:
        await context.send_initial_metadata(())
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


async def test_what_has_piled_up_is_no_flood_where_control_takes_less_than_by_default(
    serve: Serve, dial: Dial, sessions_address: str, session: Session
) -> None:
    settings = control.Settings(sessions_address=sessions_address, controls_per_s=20.0, burst=4)
    sender = Sender(
        [control_pb2_grpc.ControlServiceStub(dial(await serve(control.ControlService(settings))))], session
    )
    for seq in range(1, 31):
        sender.send(up(session, seq))
    async with hearing(sender) as (heard, task):
        await heard.until(30, task)
    assert heard.outcomes == dict.fromkeys(range(1, 31), "accepted")


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
