"""A Redis that is away for longer than any lease or seat, and comes back with what it had written down."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Obeyed
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    FollowRequest,
    FollowResponse,
    GetRequest,
    OpenRequest,
    PushRequest,
    SessionState,
)
from services import errors
from services.app import Service
from services.sessions.service import SessionService, Settings
from services.sessions.store import StoreLimits
from tests.services.asking import DEADLINE_S, LEFT, Sessions, following, refused
from tests.services.servers import ACL, NOBODY, REDIS, VALKEY, Server

AWAY_S = 3.0
LIMITS = StoreLimits(live_seat_s=0.6, lease_s=1.0, command_s=0.5)


@pytest.fixture(
    params=[
        pytest.param(REDIS, marks=pytest.mark.skipif(not REDIS, reason="redis-server is not installed")),
        VALKEY,
    ],
    ids=["redis", "valkey"],
)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(
        request.param, tmp_path / "server", "appendonly yes", NOBODY, f"user player on >secret {ACL}"
    )
    await server.start()
    yield server
    await server.kill()


async def test_what_was_acknowledged_outlives_a_redis_that_was_killed(
    server: Server,
    serve: Callable[[Service], Awaitable[str]],
    dial: Callable[[str], grpc.aio.Channel],
    announcement: AnnounceRequest,
) -> None:
    service = SessionService(Settings(redis_url=server.url.replace("//", "//player:secret@")), LIMITS)
    stub = Sessions(dial(await serve(service)))
    await stub.Announce(announcement)
    session = await stub.Open(OpenRequest())
    session_id = (
        await stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    ).session_id
    follow = await following(stub, session_id, 1)
    followed: list[int] = []
    reading = asyncio.create_task(_followed(follow, followed))

    async def kill_soon() -> None:
        await asyncio.sleep(0.5)
        await server.kill()

    killing = asyncio.create_task(kill_soon())
    accepted = await asyncio.wait_for(_accepted(stub, session_id), DEADLINE_S)
    await killing
    assert accepted
    await follow.write(FollowRequest(obeyed=ControlReceipt(seq=accepted[0], obeyed=Obeyed(frame_index=9))))
    refusal = await refused(stub.Open(OpenRequest()))
    assert isinstance(refusal, errors.StoreUnavailable)
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.retry_after_s
    await asyncio.sleep(AWAY_S)  # seats and leases have lapsed
    assert "does not serve" in (service.trouble() or "")
    assert not reading.done()
    await server.start()
    again = stub.Push()
    async with asyncio.timeout(DEADLINE_S):
        while followed[-1:] != accepted[-1:]:
            assert not reading.done()
            await asyncio.sleep(0.05)
        # A control that was stored and not answered may come as well; none comes twice.
        assert [seq for seq in followed if seq in accepted] == accepted
        assert len(set(followed)) == len(followed)
        while service.trouble():  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.05)
        await stub.Announce(announcement)
        live = SessionState.SESSION_STATE_LIVE
        while (await stub.Get(GetRequest(session_id=session_id))).state != live:  # noqa: ASYNC110 (renewed soon)
            await asyncio.sleep(0.05)
        assert isinstance(
            await refused(stub.Claim(ClaimRequest(session_id=session_id, replica="engine-1"))),
            errors.SeatTaken,
        )
        seq = followed[-1] + 1
        await again.write(PushRequest(event=ControlEvent(session_id=session_id, seq=seq, keys=LEFT)))
        receipt = await again.read()
        assert isinstance(receipt, ControlReceipt)
        assert receipt.HasField("accepted")
        while followed[-1] != seq:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await stub.Open(OpenRequest())
    reading.cancel()


async def _accepted(stub: Sessions, session_id: str) -> list[int]:
    """Sends controls one after the other until Redis is gone; those that were accepted."""
    push, accepted = stub.Push(), list[int]()

    async def send() -> None:
        while True:
            seq = len(accepted) + 1
            await push.write(PushRequest(event=ControlEvent(session_id=session_id, seq=seq, keys=LEFT)))
            receipt = await push.read()
            assert isinstance(receipt, ControlReceipt)
            assert receipt.HasField("accepted")
            accepted.append(seq)

    with contextlib.suppress(grpc.aio.AioRpcError):  # its class is lost where a write was under way
        await send()
    return accepted


async def _followed(
    follow: "grpc.aio.StreamStreamCall[FollowRequest, FollowResponse]", followed: list[int]
) -> None:
    async for control in follow:
        followed.append(control.event.seq)
