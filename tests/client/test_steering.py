"""What became of a control is told by receipts, and by frames where a receipt was lost."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from livevideo.v1.control_pb2 import Accepted, ControlEvent, ControlReceipt, Keys, Obeyed, Refused
from livevideo.v1.frame_pb2 import Frame
from livevideo.v1.session_pb2 import Model, Session
from livevideo_client.comeback import Sender, Silence
from livevideo_client.refusals import ControlRefused, SessionEnded, Unavailable
from livevideo_client.steering import Control, Steering


class Scripted:
    """A sender that answers what the test says."""

    def __init__(self) -> None:
        self.sent: list[ControlEvent] = []
        self._receipts: asyncio.Queue[ControlReceipt | Silence] = asyncio.Queue()

    def fall_silent(self) -> None:
        self._receipts.put_nowait(Silence("no receipt came"))

    def send(self, event: ControlEvent) -> None:
        self.sent.append(event)

    async def receipts(self) -> AsyncGenerator[ControlReceipt, None]:
        while True:
            receipt = await self._receipts.get()
            if isinstance(receipt, Silence):
                raise receipt
            yield receipt
            self._receipts.task_done()

    async def answer(self, receipt: ControlReceipt) -> None:
        """Returns once it was taken."""
        self._receipts.put_nowait(receipt)
        await self._receipts.join()


@pytest.fixture
def sender() -> Scripted:
    return Scripted()


@pytest.fixture
async def steering(sender: Scripted) -> AsyncGenerator[Steering, None]:
    session = Session(session_id="one", model=Model(name="road", keys=["up"], tracks=["keys"]))
    steering = Steering(cast(Sender, sender), session, after_seq=6)
    running = asyncio.create_task(steering.run())
    yield steering
    running.cancel()


def held(steering: Steering) -> Control:
    return steering.send(keys=Keys(down=["up"]))


async def test_numbers_go_on_behind_those_that_were_sent_before(sender: Scripted, steering: Steering) -> None:
    assert [held(steering).seq, held(steering).seq] == [7, 8]
    assert [event.seq for event in sender.sent] == [7, 8]


async def test_a_control_whose_obeyed_receipt_was_lost_is_obeyed_in_the_first_frame_that_says_so(
    sender: Scripted, steering: Steering
) -> None:
    control = held(steering)
    steering.saw(Frame(index=9, control_seq=7))
    steering.saw(Frame(index=10, control_seq=7))
    await sender.answer(ControlReceipt(seq=7, accepted=Accepted()))
    assert await control.obeyed() == 9


async def test_a_refused_control_is_not_obeyed_however_late_that_is_told(
    sender: Scripted, steering: Steering
) -> None:
    refused, kept = held(steering), held(steering)
    steering.saw(Frame(index=9, control_seq=8))
    await sender.answer(ControlReceipt(seq=7, refused=Refused(reason="flood", message="fewer")))
    await sender.answer(ControlReceipt(seq=8, accepted=Accepted()))
    await sender.answer(ControlReceipt(seq=8, obeyed=Obeyed(frame_index=9)))
    with pytest.raises(ControlRefused, match="flood: fewer"):
        await refused.accepted()
    with pytest.raises(ControlRefused):
        await refused.obeyed()
    assert await kept.obeyed() == 9


async def test_who_waits_for_a_control_hears_that_the_session_has_ended(steering: Steering) -> None:
    control = held(steering)
    waiting = asyncio.create_task(control.obeyed())
    await asyncio.sleep(0)
    steering.end(SessionEnded("session_closed", "it is"))
    steering.end(SessionEnded("time_up", "later"))
    async with asyncio.timeout(5):
        for settled in (waiting, control.accepted()):
            with pytest.raises(SessionEnded, match="session_closed: it is"):
                await settled
    with pytest.raises(SessionEnded, match="session_closed"):
        held(steering)


async def test_who_steers_where_nobody_listens_is_told(sender: Scripted, steering: Steering) -> None:
    control = held(steering)
    sender.fall_silent()
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="no_receipt"):
            await control.accepted()
    assert isinstance(steering.ended_by, Unavailable)
