"""The logs of sessions: kept up to a size for each tenant, for a while, and taken there by the engine."""

from typing import TYPE_CHECKING, TypeAlias

import grpc
import pytest
import torch
from redis.asyncio import Redis

from livevideo.v1 import log_pb2_grpc
from livevideo.v1.log_pb2 import (
    AppendRequest,
    AppendResponse,
    LogEntry,
    ReadResponse,
    Stepped,
    Verb,
)
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services import errors
from services.engine.logbook import Logbook
from services.engine.recorded import RecordedWorld
from services.sessions import log_scripts
from services.sessions.logs import LogLimits, LogStore
from services.sessions.service import SessionService, Settings
from services.sessions.store import SessionStore
from tests.services.conftest import Dial, Serve
from tests.services.small_world import Counting

if TYPE_CHECKING:
    from livevideo.v1.log_pb2_grpc import LogServiceAsyncStub

Logs: TypeAlias = "LogServiceAsyncStub"


def entry(session_id: str, first_verb: int = 0, tenant: str = "default", size: int = 100) -> LogEntry:
    """One verb, of a weight."""
    verb = Verb(stepped=Stepped(digest=first_verb, controls=bytes(size)))
    return LogEntry(session_id=session_id, tenant=tenant, epoch=1, first_verb=first_verb, verbs=[verb])


@pytest.fixture
async def opened(patient: SessionStore, announcement: AnnounceRequest, road: Model) -> list[str]:
    """Three sessions."""
    announcement.slots = 8
    await patient.announce(announcement)
    record = Session(model=road, seed=7, image=b"a picture", prompt="snow", tenant="default")
    return [(await patient.open(record)).session_id for _ in range(3)]


async def kept(store: SessionStore, session_id: str) -> list[ReadResponse]:
    return [part async for part in LogStore(store).read(session_id)]


async def test_a_log_brings_back_the_session_as_it_was_opened_and_every_entry(
    patient: SessionStore, opened: list[str]
) -> None:
    for number in range(150):
        assert await LogStore(patient).append(entry(opened[0], number), LogLimits(60, 1 << 20)) == (True, [])
    await patient.end(opened[0])
    session, *others = await kept(patient, opened[0])
    assert (session.session.seed, session.session.image, session.session.prompt) == (7, b"a picture", "snow")
    assert [each.entry.first_verb for each in others] == [*range(150)]


async def test_a_log_of_nobody_is_refused(patient: SessionStore) -> None:
    for session_id in ("road-" + 32 * "0", "../" + 32 * "0"):
        with pytest.raises(errors.UnknownSession):
            await LogStore(patient).append(entry(session_id), LogLimits(60, 1 << 20))
        with pytest.raises(errors.UnknownSession):
            await kept(patient, session_id)


async def test_a_tenant_who_is_full_loses_the_oldest_log_of_a_session_that_is_over(
    patient: SessionStore, opened: list[str], valkey_url: str
) -> None:
    first, second, third = opened
    for session_id in (first, second):
        assert await LogStore(patient).append(entry(session_id, size=4000), LogLimits(600, 10_000)) == (
            True,
            [],
        )
    redis = Redis.from_url(valkey_url)
    times = log_scripts.keys(first, "default")[2]
    for session_id, ago_ms in ((first, 180_000), (second, 120_000)):
        await redis.zincrby(times, -ago_ms, session_id)
    assert await LogStore(patient).append(entry(third, size=4000), LogLimits(600, 10_000)) == (True, [first])
    with pytest.raises(errors.UnknownSession):
        await kept(patient, first)
    assert len(await kept(patient, second)) == 2
    await redis.aclose()


async def test_a_log_that_finds_no_room_ends_and_says_so_and_one_that_is_played_loses_nothing(
    patient: SessionStore, opened: list[str]
) -> None:
    first, second, _ = opened
    for session_id, is_kept in ((first, True), (second, False), (second, False)):
        assert await LogStore(patient).append(entry(session_id, size=6000), LogLimits(600, 10_000)) == (
            is_kept,
            [],
        )
    assert [part.WhichOneof("part") for part in await kept(patient, first)] == ["session", "entry"]
    assert [part.WhichOneof("part") for part in await kept(patient, second)] == ["full"]


async def test_the_room_of_one_tenant_is_not_that_of_another(
    patient: SessionStore, opened: list[str]
) -> None:
    for session_id, tenant in zip(opened, ("a", "b", "c"), strict=True):
        log = entry(session_id, tenant=tenant, size=6000)
        assert await LogStore(patient).append(log, LogLimits(600, 10_000)) == (True, [])


async def test_logs_that_have_expired_take_no_room(
    patient: SessionStore, opened: list[str], valkey_url: str
) -> None:
    first, second, _ = opened
    await LogStore(patient).append(entry(first, size=6000), LogLimits(600, 10_000))
    redis = Redis.from_url(valkey_url)
    times, sizes = log_scripts.keys(first, "default")[2:]
    await redis.zincrby(times, -601_000, first)
    assert await LogStore(patient).append(entry(second, size=6000), LogLimits(600, 10_000)) == (True, [])
    assert set(await redis.hgetall(sizes)) == {b"total", second.encode()}
    assert await redis.hget(sizes, "total") == await redis.hget(sizes, second)
    for key in log_scripts.keys(second, "default")[1:]:
        assert 0 < await redis.pttl(key) <= 600_000
    await redis.aclose()


async def test_sessions_says_for_whom_there_is_no_room(
    serve: Serve, dial: Dial, valkey_url: str, opened: list[str]
) -> None:
    address = await serve(SessionService(Settings(redis_url=valkey_url, log_tenant_bytes=1)))
    stub: Logs = log_pb2_grpc.LogServiceStub(dial(address))
    assert [*(await stub.Append(AppendRequest(entries=[entry(opened[0])]))).full] == [opened[0]]


class Away:
    """*sessions*, which does not answer for a while."""

    def __init__(self, failures: int, full: tuple[str, ...] = ()) -> None:
        self.failures, self.full = failures, full
        self.heard: list[LogEntry] = []

    async def Append(self, request: AppendRequest, timeout: float) -> AppendResponse:  # noqa: ASYNC109 (as in the stub)
        if self.failures:
            self.failures -= 1
            metadata = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, "away")
        self.heard += request.entries
        return AppendResponse(full=self.full)


def played() -> RecordedWorld:
    world = RecordedWorld(Counting())
    world.open(0, None, "", 1)
    world.name(0, "road-1", "default", 1)
    return world


async def test_what_did_not_arrive_is_sent_again_before_anything_newer() -> None:
    world, sessions = played(), Away(failures=2)
    logbook = Logbook(world, 1.0)
    for _ in range(4):
        world.step({0: torch.zeros(4, 2)})
        await logbook.send(sessions)  # type: ignore[arg-type]
    assert [(each.first_verb, len(each.verbs)) for each in sessions.heard] == [(0, 2), (2, 3)]


async def test_a_session_whose_log_is_full_is_not_sent_any_more() -> None:
    world, sessions = played(), Away(failures=0, full=("road-1",))
    logbook = Logbook(world, 1.0)
    for _ in range(3):
        world.step({0: torch.zeros(4, 2)})
        await logbook.send(sessions)  # type: ignore[arg-type]
    assert len(sessions.heard) == 1
