"""What a tenant has used, counted once, and what ends its sessions: time, idleness, used minutes."""

import asyncio

import grpc
import pytest
from redis.asyncio import Redis

from livevideo.v1.admin_pb2 import AddTenantRequest, ChangeTenantRequest, GetUsageRequest, NewKey, Quotas
from livevideo.v1.control_pb2 import ControlEvent
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    FollowRequest,
    GetRequest,
    Notice,
    NoticesRequest,
    OpenRequest,
    PushRequest,
    Session,
)
from services import errors
from services.credentials import bearer
from services.relay import from_status
from services.sessions import service as sessions
from services.sessions.store import SessionStore, StoreLimits
from services.sessions.tenants import TenantStore
from tests.services.asking import DEADLINE_S, LEFT, Sessions, following, refused
from tests.services.paying import Admin, Following


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.3, lease_s=60.0, command_s=5.0)


@pytest.fixture
def sessions_settings(valkey_url: str) -> sessions.Settings:
    return sessions.Settings(redis_url=valkey_url, admin_address="127.0.0.1:0", lease_s=0.4, notice_s=0.4)


@pytest.fixture
async def acme(admin_stub: Admin, session_stub: Sessions, announcement: AnnounceRequest) -> NewKey:
    announcement.slots = 5
    await session_stub.Announce(announcement)
    return await admin_stub.AddTenant(AddTenantRequest(name="acme"))


async def set_quotas(admin: Admin, **quotas: float) -> None:
    await admin.ChangeTenant(ChangeTenantRequest(name="acme", quotas=Quotas(**quotas)))  # type: ignore[arg-type]


async def played(stub: Sessions, key: NewKey) -> tuple[Session, Following]:
    """A session that an engine plays."""
    session = await stub.Open(OpenRequest(), metadata=bearer(key.key))
    return session, await claimed(stub, session, 1)


async def claimed(stub: Sessions, session: Session, epoch: int) -> Following:
    claim = await stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    assert claim.epoch == epoch
    return await following(stub, session.session_id, epoch)


async def used(admin: Admin) -> tuple[int, float, int]:
    """Sessions, seconds and latents of the tenant, over the days; a test may run at midnight."""
    days = (await admin.GetUsage(GetUsageRequest(name="acme"))).days
    return (
        sum(day.sessions for day in days),
        sum(day.session_s for day in days),
        sum(day.latents for day in days),
    )


async def until_latents(admin: Admin, latents: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await used(admin))[2] != latents:  # noqa: ASYNC110 (another service)
            await asyncio.sleep(0.02)


async def test_latents_are_counted_once_across_engines_that_die(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session, first = await played(session_stub, acme)
    for latents in range(1, 11):
        await first.write(FollowRequest(latents=latents))
    await until_latents(admin_stub, 10)
    first.cancel()
    await until_claimable(session_stub, session)
    # The next engine begins where the decoder was, behind what the first had made, and makes that again.
    second = await claimed(session_stub, session, 2)
    for latents in range(8, 16):
        await second.write(FollowRequest(latents=latents))
    await until_latents(admin_stub, 15)
    await session_stub.Close(CloseRequest(session_id=session.session_id), metadata=bearer(session.token))
    assert await asyncio.wait_for(second.code(), DEADLINE_S) is grpc.StatusCode.OK
    assert (await used(admin_stub))[::2] == (1, 15)


async def until_claimable(stub: Sessions, session: Session) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await stub.Get(GetRequest(session_id=session.session_id), metadata=bearer(session.token))
            if found.state == 1:
                return
            await asyncio.sleep(0.02)


async def test_what_was_told_last_is_counted_when_the_engine_and_the_session_end(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    _, follow = await played(session_stub, acme)
    await follow.write(FollowRequest(latents=3))
    await follow.done_writing()
    await asyncio.wait_for(follow.code(), DEADLINE_S)
    assert (await used(admin_stub))[2] == 3


async def test_an_engine_of_an_old_epoch_is_not_paid_for(
    valkey_url: str, acme: NewKey, session_stub: Sessions, admin_stub: Admin
) -> None:
    store = SessionStore(valkey_url)
    tenants = TenantStore(store)
    session = await session_stub.Open(OpenRequest(), metadata=bearer(acme.key))
    await store.claim(session.session_id, "engine-1")
    meter = {"keep_s": 30.0, "notice_s": 1.0}
    await tenants.meter(session.session_id, "acme", 1, 5, **meter)
    await store.release(session.session_id, 1)
    await store.claim(session.session_id, "engine-1")
    with pytest.raises(errors.Superseded):
        await tenants.meter(session.session_id, "acme", 1, 500, **meter)
    await tenants.meter(session.session_id, "acme", 2, 6, **meter)
    assert (await used(admin_stub))[2] == 6
    await store.close()


async def test_the_seconds_of_play_are_counted_and_those_between_engines_are_not(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey, valkey_url: str
) -> None:
    store = SessionStore(valkey_url)
    tenants = TenantStore(store)
    session = await session_stub.Open(OpenRequest(), metadata=bearer(acme.key))
    session_key = f"{{livevideo}}:session:{session.session_id}:session"
    meter = {"keep_s": 3000.0, "notice_s": 1.0}

    async def pass_time(redis: "Redis", seconds: float) -> None:
        """As if it had been told so much earlier."""
        metered_ms = int(await redis.hget(session_key, "metered_ms") or 0)
        await redis.hset(session_key, "metered_ms", str(metered_ms - round(1000 * seconds)))

    async with Redis.from_url(valkey_url) as redis:
        await store.claim(session.session_id, "engine-1")
        await tenants.meter(session.session_id, "acme", 1, 0, **meter)
        await pass_time(redis, 100)
        await tenants.meter(session.session_id, "acme", 1, 0, **meter)
        await pass_time(redis, 86_400)  # of a clock that jumps, two minutes are believed
        await tenants.meter(session.session_id, "acme", 1, 0, **meter)
        await store.release(session.session_id, 1)
        await pass_time(redis, 5000)
        await store.claim(session.session_id, "engine-1")
        await tenants.meter(session.session_id, "acme", 2, 0, **meter)
        await pass_time(redis, 60)
        await tenants.meter(session.session_id, "acme", 2, 0, **meter)
        await store.end(session.session_id, "acme")
        await pass_time(redis, 7)
        with pytest.raises(errors.SessionClosed):
            await tenants.meter(session.session_id, "acme", 2, 0, **meter)
        with pytest.raises(errors.SessionClosed):
            await tenants.meter(session.session_id, "acme", 2, 0, **meter)
    seconds = (await used(admin_stub))[1]
    assert 287 <= seconds < 287 + DEADLINE_S
    await store.close()


async def ended(
    stub: Sessions, session: Session, follow: Following
) -> tuple[list[Notice], errors.ServiceError]:
    """What was said before a session ended by itself, and why it did; its engine is let go in peace."""
    notices = stub.Notices(NoticesRequest(session_id=session.session_id), metadata=bearer(session.token))
    told: list[Notice] = []

    async def read() -> None:
        async for notice in notices:
            told.append(notice)

    refusal = await refused(read())
    async for _ in follow:
        pass
    assert await asyncio.wait_for(follow.code(), DEADLINE_S) is grpc.StatusCode.OK
    return told, refusal


async def test_a_session_is_ended_after_its_time_with_notice(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session, follow = await played(session_stub, acme)
    await set_quotas(admin_stub, session_s=1.0)
    told, refusal = await ended(session_stub, session, follow)
    assert isinstance(refusal, errors.TimeUp)
    assert [notice.reason for notice in told] == ["time_up"]
    assert told[0].ends_at_s == pytest.approx(session.opened_at_s + 1.0, abs=0.2)


async def test_a_session_that_is_not_steered_is_ended_and_a_control_takes_the_notice_back(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    session, follow = await played(session_stub, acme)
    await set_quotas(admin_stub, idle_s=0.8)
    notices = session_stub.Notices(
        NoticesRequest(session_id=session.session_id), metadata=bearer(session.token)
    )
    first = await asyncio.wait_for(notices.read(), DEADLINE_S)
    assert isinstance(first, Notice)
    assert first.reason == "idle"
    push = session_stub.Push(metadata=bearer(session.token))
    await push.write(PushRequest(event=ControlEvent(session_id=session.session_id, seq=1, keys=LEFT)))
    second = await asyncio.wait_for(notices.read(), DEADLINE_S)
    assert second == Notice()
    _, refusal = await ended(session_stub, session, follow)
    assert isinstance(refusal, errors.TimeUp)
    assert "idle" in refusal.message


async def test_used_minutes_end_what_is_played_and_refuse_what_is_new_until_tomorrow(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    await set_quotas(admin_stub, minutes_per_day=1 / 60)
    session, follow = await played(session_stub, acme)
    told, refusal = await ended(session_stub, session, follow)
    assert isinstance(refusal, errors.TimeUp)
    assert [notice.reason for notice in told] == ["minutes_used"]
    more = await refused(session_stub.Open(OpenRequest(), metadata=bearer(acme.key)))
    assert isinstance(more, errors.QuotaExceeded)
    assert more.facts["quota"] == "minutes_per_day"
    assert more.retry_after_s is not None
    assert 0 < more.retry_after_s <= 86_400
    sessions_opened, seconds, _ = await used(admin_stub)
    assert sessions_opened == 1
    assert seconds >= 1.0


async def test_a_session_whose_lease_has_lapsed_comes_back_only_where_its_quota_has_room(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey
) -> None:
    await set_quotas(admin_stub, sessions=1)
    first, follow = await played(session_stub, acme)
    more = await refused(session_stub.Open(OpenRequest(), metadata=bearer(acme.key)))
    assert isinstance(more, errors.QuotaExceeded)
    follow.cancel()
    await until_claimable(session_stub, first)
    second = await until_opened(session_stub, acme)  # the lease of the first lapses
    claim = session_stub.Claim(ClaimRequest(session_id=first.session_id, replica="engine-1"))
    assert isinstance(await refused(claim), errors.QuotaExceeded)
    await session_stub.Close(CloseRequest(session_id=second.session_id), metadata=bearer(second.token))
    await claimed(session_stub, first, 3)


async def until_opened(stub: Sessions, key: NewKey) -> Session:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await stub.Open(OpenRequest(), metadata=bearer(key.key))
            except grpc.aio.AioRpcError as error:
                if not isinstance(from_status(error), errors.QuotaExceeded):
                    raise
            await asyncio.sleep(0.05)


async def test_usage_goes_on_being_counted_when_redis_was_away_for_a_while(
    session_stub: Sessions, admin_stub: Admin, acme: NewKey, valkey_url: str
) -> None:
    _, follow = await played(session_stub, acme)
    await follow.write(FollowRequest(latents=1))
    await until_latents(admin_stub, 1)
    async with Redis.from_url(valkey_url) as redis:
        await redis.execute_command("CLIENT", "PAUSE", "500", "ALL")
    await follow.write(FollowRequest(latents=7))
    await until_latents(admin_stub, 7)
    assert (await used(admin_stub))[2] == 7, "once, however often it was told"


async def test_a_deployment_without_tenants_counts_nothing_and_ends_nothing(
    session_stub: Sessions, announcement: AnnounceRequest, valkey_url: str
) -> None:
    await session_stub.Announce(announcement)
    session = await session_stub.Open(OpenRequest(tenant="anybody"))
    follow = await claimed(session_stub, session, 1)
    await follow.write(FollowRequest(latents=7))
    await asyncio.sleep(0.5)
    async with Redis.from_url(valkey_url) as redis:
        assert not await redis.keys("*:usage")
        assert not await redis.keys("*:open")
    follow.cancel()
