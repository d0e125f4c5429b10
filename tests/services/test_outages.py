"""sessions when Redis is silent, full, or dies."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from redis.asyncio import Redis

from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    GetRequest,
    Model,
    OpenRequest,
    PushRequest,
    Session,
    SessionState,
)
from services import errors
from services.sessions.embedded import EmbeddedValkey, next_delay_s
from services.sessions.service import SessionService
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import DEADLINE_S, LEFT, Sessions, following, opened_and_claimed, refused

Running = Callable[[], set["asyncio.Task[object]"]]


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=1.0, command_s=2.0)


async def test_no_cancellation_is_lost_at_whatever_moment_it_comes(store: SessionStore) -> None:
    for moment in range(120):
        reading = asyncio.create_task(store.read_receipts("road-none", b"0-0"))
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_without_redis_calls_are_refused_quickly_and_work_again_after_it_is_back(
    session_stub: Sessions, valkey: EmbeddedValkey, announcement: AnnounceRequest
) -> None:
    session = await opened_and_claimed(session_stub, announcement)
    push = session_stub.Push()
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    receipt = await push.read()
    assert isinstance(receipt, ControlReceipt)
    assert receipt.HasField("accepted")
    await valkey.kill()
    refusal = await refused(session_stub.Get(GetRequest(session_id=session.session_id)))
    assert isinstance(refusal, errors.StoreUnavailable)
    assert refusal.retry_after_s is not None
    assert isinstance(await refused(push.read()), errors.StoreUnavailable)
    await valkey.start()
    await session_stub.Announce(announcement)
    assert (await session_stub.Open(OpenRequest())).replica == "engine-1"


async def test_a_follow_outlives_a_short_silence_of_redis(
    session_stub: Sessions, valkey: EmbeddedValkey, announcement: AnnounceRequest
) -> None:
    """It is told the truth once Redis is back: here, that an empty Redis knows no such session."""
    session = await opened_and_claimed(session_stub, announcement)
    follow = await following(session_stub, session.session_id, 1)
    push = session_stub.Push()
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    await asyncio.wait_for(follow.read(), DEADLINE_S)  # it follows
    push.cancel()
    await valkey.kill()
    waiting = asyncio.create_task(follow.read())
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await valkey.start()
    assert isinstance(await refused(waiting), errors.UnknownSession)


async def test_a_redis_that_is_silent_is_given_up_on(announcement: AnnounceRequest) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = SessionStore(f"redis://:secret@127.0.0.1:{port}", StoreLimits(command_s=0.2))
    with pytest.raises(errors.StoreUnavailable) as caught:
        await asyncio.wait_for(store.announce(announcement), DEADLINE_S)
    assert "secret" not in caught.value.message
    await store.close()
    server.close()


@pytest.fixture
async def valkeys(monkeypatch: pytest.MonkeyPatch) -> list[EmbeddedValkey]:
    """Those that were started so far."""
    started: list[EmbeddedValkey] = []
    start = EmbeddedValkey.start

    async def noted(valkey: EmbeddedValkey) -> str:
        started.append(valkey)
        return await start(valkey)

    monkeypatch.setattr(EmbeddedValkey, "start", noted)
    return started


async def test_a_valkey_that_dies_is_started_again_and_sessions_can_be_opened(
    valkeys: list[EmbeddedValkey],
    serve: Callable[[SessionService], Awaitable[str]],
    dial: Callable[[str], grpc.aio.Channel],
    announcement: AnnounceRequest,
) -> None:
    stub = Sessions(dial(await serve(SessionService())))
    for _ in range(2):
        await stub.Announce(announcement)
        session = await stub.Open(OpenRequest())
        await valkeys[0].kill()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                gone = await refused(stub.Get(GetRequest(session_id=session.session_id)))
                if isinstance(gone, errors.UnknownSession):
                    break
                assert isinstance(gone, errors.StoreUnavailable)
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.11, 0.13, 0.2])
async def test_a_service_that_stops_while_its_valkey_is_started_again_leaves_nothing(
    valkeys: list[EmbeddedValkey], running: Running, after_s: float
) -> None:
    before, service = running(), SessionService()
    await service.start()
    await valkeys[0].kill()
    await asyncio.sleep(after_s)
    folder = Path(valkeys[0].url.removeprefix("unix://")).parent
    await service.stop()
    assert running() == before
    assert not folder.exists()
    listing = await asyncio.create_subprocess_exec("ps", "-eo", "args", stdout=asyncio.subprocess.PIPE)
    said, _ = await listing.communicate()
    assert str(folder).encode() not in said


def test_a_valkey_that_keeps_dying_is_started_again_more_and_more_slowly() -> None:
    delays_s = [0.0]
    for lived_s in (30.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 30.0, 0.1):
        delays_s.append(next_delay_s(delays_s[-1], lived_s))
    assert delays_s[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]


async def test_a_full_valkey_refuses_new_sessions_and_those_that_are_played_go_on(
    patient: SessionStore, valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    played = (await patient.open(Session(model=road))).session_id
    redis = Redis.from_url(valkey_url)
    assert (await redis.config_get("maxmemory"))["maxmemory"] == str(512 << 20)
    await redis.config_set("maxmemory", 1)
    known = await redis.dbsize()
    with pytest.raises(errors.StoreUnavailable):
        await patient.open(Session(model=road, image=bytes(1000)))
    assert await redis.dbsize() == known
    await patient.claim(played, "engine-1")
    await patient.renew(played, 1)
    await patient.announce(announcement)
    await patient.end(played)
    assert (await patient.find(played)).state == SessionState.SESSION_STATE_CLOSED
    await redis.aclose()


async def test_a_session_that_finds_no_room_leaves_nothing_behind(
    patient: SessionStore, valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    announcement.slots = 1
    await patient.announce(announcement)
    await patient.open(Session(model=road))
    redis = Redis.from_url(valkey_url)
    known = await redis.dbsize()
    with pytest.raises(errors.EngineFull):
        await patient.open(Session(model=road))
    assert await redis.dbsize() == known
    await redis.aclose()
