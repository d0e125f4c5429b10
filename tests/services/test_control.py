"""control before a real sessions and a real Valkey, as a player meets it."""

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest
from prometheus_client import REGISTRY

from livevideo.v1 import control_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Keys, Look, Obeyed, Prompt
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    FollowRequest,
    FollowResponse,
    OpenRequest,
    Seat,
)
from services import errors
from services.app import Host, Service
from services.control import service as control
from services.relay import from_status
from services.sessions.embedded import EmbeddedValkey
from tests.services.asking import Sessions

if TYPE_CHECKING:
    from livevideo.v1.control_pb2_grpc import ControlServiceAsyncStub

Controls: TypeAlias = "ControlServiceAsyncStub"
Sending: TypeAlias = "grpc.aio.StreamStreamCall[ControlEvent, ControlReceipt]"
Following: TypeAlias = "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]"
Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]
DEADLINE_S = 20.0
LEFT = Keys(down=["left"])


@pytest.fixture
async def session_id(session_stub: Sessions, announcement: AnnounceRequest) -> str:
    await session_stub.Announce(announcement)
    return (await session_stub.Open(OpenRequest(tenant="acme"))).session_id


@pytest.fixture
async def follow(session_stub: Sessions, session_id: str) -> Following:
    """The engine's end, in the first epoch."""
    await session_stub.Claim(ClaimRequest(session_id=session_id, replica="engine-1"))
    call = session_stub.Follow()
    await call.write(FollowRequest(seat=Seat(session_id=session_id, epoch=1)))
    return call


async def answer(send: Sending) -> ControlReceipt:
    receipt = await asyncio.wait_for(send.read(), DEADLINE_S)
    assert isinstance(receipt, ControlReceipt), receipt
    return receipt


async def outcome(send: Sending, event: ControlEvent) -> str:
    """What becomes of an event: "accepted", or the reason of its refusal."""
    await send.write(event)
    receipt = await answer(send)
    assert receipt.seq == event.seq
    return receipt.refused.reason or str(receipt.WhichOneof("outcome"))


async def refusal_of(send: Sending) -> errors.ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(send.read(), DEADLINE_S)
    refusal = from_status(caught.value)
    assert refusal is not None
    return refusal


async def test_a_control_is_accepted_reaches_the_engine_and_is_reported_obeyed(
    control_stub: Controls, session_id: str, follow: Following
) -> None:
    send = control_stub.Send()
    assert await outcome(send, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    given = await asyncio.wait_for(follow.read(), DEADLINE_S)
    assert isinstance(given, FollowResponse)
    assert given.event == ControlEvent(session_id=session_id, seq=1, keys=LEFT)
    assert given.received_at_s > 0
    await follow.write(FollowRequest(obeyed=ControlReceipt(seq=1, obeyed=Obeyed(frame_index=5))))
    assert (await answer(send)).obeyed.frame_index == 5


async def test_later_events_need_not_name_the_session(control_stub: Controls, session_id: str) -> None:
    send = control_stub.Send()
    assert await outcome(send, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    assert await outcome(send, ControlEvent(seq=2, keys=Keys())) == "accepted"
    assert await outcome(send, ControlEvent(session_id="road-other", seq=3, keys=LEFT)) == "other_session"


async def test_bad_controls_are_refused_one_by_one_and_the_stream_goes_on(
    control_stub: Controls, session_id: str
) -> None:
    def refused_so_far() -> float:
        labels = {"tenant": "acme", "model": "road", "reason": "not_finite"}
        return REGISTRY.get_sample_value("controls_refused_total", labels) or 0.0

    send, before = control_stub.Send(), refused_so_far()
    events = [
        (ControlEvent(session_id=session_id, seq=1, look=Look(yaw_rad=math.nan)), "not_finite"),
        (ControlEvent(seq=1, keys=Keys(down=["jump"])), "unknown_key"),
        (ControlEvent(seq=1, prompt=Prompt(text="x" * 60_000)), "too_long"),
        (ControlEvent(seq=1), "no_track"),
        (ControlEvent(seq=1, keys=LEFT), "accepted"),
        (ControlEvent(seq=1, keys=LEFT), "old_seq"),
        (ControlEvent(seq=2, keys=LEFT), "accepted"),
    ]
    for event, expected in events:
        assert await outcome(send, event) == expected
    assert refused_so_far() == before + 1


async def test_a_seq_that_another_instance_has_let_through_is_refused(
    serve: Serve, dial: Dial, sessions_address: str, control_stub: Controls, session_id: str
) -> None:
    other = await serve(control.ControlService(control.Settings(sessions_address=sessions_address)))
    here, there = control_stub.Send(), control_pb2_grpc.ControlServiceStub(dial(other)).Send()
    assert await outcome(here, ControlEvent(session_id=session_id, seq=4, keys=LEFT)) == "accepted"
    assert await outcome(there, ControlEvent(session_id=session_id, seq=4, keys=LEFT)) == "old_seq"
    assert await outcome(there, ControlEvent(seq=5, keys=LEFT)) == "accepted"
    assert await outcome(here, ControlEvent(seq=5, keys=LEFT)) == "old_seq"


async def test_obeyed_receipts_come_to_every_instance_that_a_player_sends_through(
    serve: Serve,
    dial: Dial,
    sessions_address: str,
    control_stub: Controls,
    session_id: str,
    follow: Following,
) -> None:
    other = await serve(control.ControlService(control.Settings(sessions_address=sessions_address)))
    here, there = control_stub.Send(), control_pb2_grpc.ControlServiceStub(dial(other)).Send()
    assert await outcome(here, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    assert await outcome(there, ControlEvent(session_id=session_id, seq=2, keys=LEFT)) == "accepted"
    await follow.write(FollowRequest(obeyed=ControlReceipt(seq=2, obeyed=Obeyed(frame_index=9))))
    assert (await answer(here)).obeyed.frame_index == 9
    assert (await answer(there)).obeyed.frame_index == 9


async def test_a_flood_over_several_streams_of_a_session_is_refused(
    serve: Serve, dial: Dial, sessions_address: str, session_id: str
) -> None:
    settings = control.Settings(sessions_address=sessions_address, controls_per_s=0.001, burst=3)
    stub = control_pb2_grpc.ControlServiceStub(dial(await serve(control.ControlService(settings))))
    one, two = stub.Send(), stub.Send()
    assert await outcome(one, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    assert await outcome(two, ControlEvent(session_id=session_id, seq=2, keys=LEFT)) == "accepted"
    assert await outcome(one, ControlEvent(seq=3, keys=LEFT)) == "accepted"
    assert await outcome(two, ControlEvent(seq=4, keys=LEFT)) == "flood"
    assert await outcome(one, ControlEvent(seq=5, keys=LEFT)) == "flood"


async def test_a_flood_over_streams_one_after_another_is_refused(
    serve: Serve, dial: Dial, sessions_address: str, session_id: str
) -> None:
    settings = control.Settings(sessions_address=sessions_address, controls_per_s=0.001, burst=3)
    stub = control_pb2_grpc.ControlServiceStub(dial(await serve(control.ControlService(settings))))
    outcomes = []
    for seq in range(1, 6):
        send = stub.Send()
        outcomes.append(await outcome(send, ControlEvent(session_id=session_id, seq=seq, keys=LEFT)))
        send.cancel()
    assert outcomes == ["accepted"] * 3 + ["flood"] * 2


async def test_a_session_has_eight_streams_and_a_ninth_is_refused_until_one_ends(
    control_stub: Controls, session_id: str
) -> None:
    sends = [control_stub.Send() for _ in range(8)]
    for seq, send in enumerate(sends, start=1):
        assert await outcome(send, ControlEvent(session_id=session_id, seq=seq, keys=LEFT)) == "accepted"
    ninth = control_stub.Send()
    await ninth.write(ControlEvent(session_id=session_id, seq=9, keys=LEFT))
    refusal = await refusal_of(ninth)
    assert isinstance(refusal, errors.TooManyStreams)
    assert "8 streams" in refusal.message
    sends[0].cancel()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            another = control_stub.Send()
            await another.write(ControlEvent(session_id=session_id, seq=9, keys=LEFT))
            with contextlib.suppress(grpc.aio.AioRpcError):
                assert (await answer(another)).HasField("accepted")
                return


async def test_a_player_who_says_nothing_is_not_waited_for(
    serve: Serve, dial: Dial, sessions_address: str
) -> None:
    settings = control.Settings(sessions_address=sessions_address, first_event_s=0.05)
    stub = control_pb2_grpc.ControlServiceStub(dial(await serve(control.ControlService(settings))))
    refusal = await refusal_of(stub.Send())
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.message == "session_id: no event came within 0.05 s; name the session at once"


async def test_the_last_receipts_come_after_the_player_has_said_the_last_control(
    control_stub: Controls, session_id: str, follow: Following
) -> None:
    send = control_stub.Send()
    await send.write(ControlEvent(session_id=session_id, seq=1, keys=LEFT))
    await send.done_writing()
    assert (await answer(send)).HasField("accepted")
    await follow.write(FollowRequest(obeyed=ControlReceipt(seq=1, obeyed=Obeyed(frame_index=1))))
    assert (await answer(send)).obeyed.frame_index == 1
    assert await asyncio.wait_for(send.code(), DEADLINE_S) is grpc.StatusCode.OK


async def test_an_unknown_session_ends_the_stream_with_not_found(control_stub: Controls) -> None:
    for session_id in ("road-" + "0" * 32, "x" * 60_000):
        send = control_stub.Send()
        await send.write(ControlEvent(session_id=session_id, seq=1, keys=LEFT))
        assert isinstance(await refusal_of(send), errors.UnknownSession)


async def test_a_first_event_without_a_session_is_a_bad_request(control_stub: Controls) -> None:
    send = control_stub.Send()
    await send.write(ControlEvent(seq=1, keys=LEFT))
    refusal = await refusal_of(send)
    assert isinstance(refusal, errors.BadRequest)
    assert refusal.message.startswith("session_id: ")


async def test_a_closed_session_ends_the_stream_and_takes_no_new_one(
    control_stub: Controls, session_stub: Sessions, session_id: str
) -> None:
    send = control_stub.Send()
    assert await outcome(send, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    await session_stub.Close(CloseRequest(session_id=session_id))
    assert isinstance(await refusal_of(send), errors.SessionClosed)
    again = control_stub.Send()
    await again.write(ControlEvent(session_id=session_id, seq=2, keys=LEFT))
    assert isinstance(await refusal_of(again), errors.SessionClosed)


async def test_who_sends_on_while_the_session_is_closed_is_told_so(
    control_stub: Controls, session_stub: Sessions, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def events() -> AsyncIterator[ControlEvent]:
        for seq in itertools.count(1):
            yield ControlEvent(session_id=session_id, seq=seq, keys=LEFT)

    receipts = aiter(control_stub.Send(events()))
    await anext(receipts)
    await session_stub.Close(CloseRequest(session_id=session_id))

    async def read_on() -> None:
        async for _ in receipts:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(read_on(), DEADLINE_S)
    # gRPC loses the reason where the client was writing just then.
    assert isinstance(from_status(caught.value), errors.SessionClosed | None)
    assert "call failed" not in caplog.text, "the service knows the reason"


async def test_without_redis_the_stream_ends_with_a_time_to_retry(
    control_stub: Controls, session_id: str, valkey: EmbeddedValkey
) -> None:
    send = control_stub.Send()
    assert await outcome(send, ControlEvent(session_id=session_id, seq=1, keys=LEFT)) == "accepted"
    await valkey.kill()
    refusal = await refusal_of(send)
    assert isinstance(refusal, errors.StoreUnavailable)
    assert refusal.retry_after_s is not None


async def test_without_sessions_the_stream_ends_as_unavailable(serve: Serve, dial: Dial) -> None:
    host = Host(control.ControlService())
    free_address = await host.start()
    await host.stop()
    address = await serve(control.ControlService(control.Settings(sessions_address=free_address)))
    send = control_pb2_grpc.ControlServiceStub(dial(address)).Send()
    await send.write(ControlEvent(session_id="road-" + "0" * 32, seq=1))
    assert isinstance(await refusal_of(send), errors.PeerUnavailable)


async def test_players_who_vanish_leave_no_task_behind(
    control_stub: Controls,
    session_id: str,
    running: Callable[[], set["asyncio.Task[object]"]],
    until_ended: Callable[[set["asyncio.Task[object]"]], Awaitable[None]],
) -> None:
    before = running()
    for seq in range(1, 6):
        send = control_stub.Send()
        assert await outcome(send, ControlEvent(session_id=session_id, seq=seq, keys=LEFT)) == "accepted"
        send.cancel()
    await until_ended(before)
