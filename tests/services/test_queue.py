"""The queue for seats: turns by tenant and priority, places and waits, and seats that are taken back."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import pytest

from livevideo.v1.admin_pb2 import NewKey, Quotas, RevokeRequest
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    ClaimRequest,
    CloseRequest,
    GetRequest,
    NoticesRequest,
    OpenRequest,
    Session,
    WaitResponse,
)
from services import errors
from services.credentials import bearer
from services.sessions import service as sessions
from services.sessions.keys import new_session_id
from services.sessions.store import SessionStore, StoreLimits
from services.sessions.tenancy import Entrant
from services.sessions.tenants import TenantStore
from tests.services.asking import DEADLINE_S, Sessions, following, refused
from tests.services.paying import Admin, Following, added

Waiting: TypeAlias = "grpc.aio.UnaryStreamCall[OpenRequest, WaitResponse]"


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=60.0, command_s=5.0)


@pytest.fixture
def sessions_settings(valkey_url: str) -> sessions.Settings:
    return sessions.Settings(redis_url=valkey_url, admin_address="127.0.0.1:0", notice_s=0.5, most_waiting=3)


@pytest.fixture
async def full(session_stub: Sessions, announcement: AnnounceRequest) -> Session:
    """One seat, which is taken."""
    announcement.slots = 1
    await session_stub.Announce(announcement)
    return await session_stub.Open(OpenRequest())


async def said(call: Waiting) -> WaitResponse:
    answer = await asyncio.wait_for(call.read(), DEADLINE_S)
    assert isinstance(answer, WaitResponse), answer
    return answer


async def place(call: Waiting) -> int:
    return (await said(call)).place.position


async def session_of(call: Waiting) -> Session:
    """The session at the end of a wait, whatever was said before."""
    while not (answer := await said(call)).HasField("session"):
        pass
    return answer.session


async def close(stub: Sessions, session: Session) -> None:
    await stub.Close(CloseRequest(session_id=session.session_id), metadata=bearer(session.token))


async def test_who_waits_hears_a_place_and_then_gets_the_seat(session_stub: Sessions, full: Session) -> None:
    first = session_stub.Wait(OpenRequest(seed=5))
    assert await place(first) == 1
    second = session_stub.Wait(OpenRequest())
    assert await place(second) == 2
    await close(session_stub, full)
    session = await session_of(first)
    assert session.seed == 5
    assert (await session_stub.Get(GetRequest(session_id=session.session_id))).replica == "engine-1"
    assert await place(second) == 1
    await close(session_stub, session)
    await session_of(second)
    assert await asyncio.wait_for(second.code(), DEADLINE_S) is grpc.StatusCode.OK


async def test_nobody_passes_those_who_wait_and_a_refusal_tells_the_place(
    session_stub: Sessions, full: Session, announcement: AnnounceRequest
) -> None:
    waits = session_stub.Wait(OpenRequest())
    assert await place(waits) == 1
    refusal = await refused(session_stub.Open(OpenRequest()))
    assert isinstance(refusal, errors.EngineFull)
    assert refusal.facts["position"] == "2"
    assert refusal.retry_after_s is not None
    announcement.slots = 3
    await session_stub.Announce(announcement)
    await session_of(waits)
    await session_stub.Open(OpenRequest())


async def test_a_place_is_lost_with_its_call(session_stub: Sessions, full: Session) -> None:
    first = session_stub.Wait(OpenRequest())
    assert await place(first) == 1
    second = session_stub.Wait(OpenRequest())
    assert await place(second) == 2
    first.cancel()
    assert await place(second) == 1


async def test_no_more_wait_than_may(session_stub: Sessions, full: Session) -> None:
    calls = [session_stub.Wait(OpenRequest()) for _ in range(3)]
    for call in calls:
        await said(call)
    refusal = await refused(session_stub.Wait(OpenRequest()).read())
    assert isinstance(refusal, errors.QueueFull)
    assert refusal.facts["position"] == "4"
    assert refusal.retry_after_s is not None


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[SessionStore]:
    store = SessionStore(valkey_url, StoreLimits(lease_s=60, live_seat_s=60, command_s=5))
    yield store
    await store.close()


async def waiting(tenants: TenantStore, entrant: Entrant) -> str:
    """Takes a place."""
    session_id = new_session_id("road")
    await tenants.wait(session_id, entrant, alive_s=60, most=100, most_of_tenant=30)
    return session_id


async def order(
    store: SessionStore, tenants: TenantStore, places: dict[str, Entrant], seats: int
) -> list[str]:
    """Tenants in the order in which they get a single seat that is given up again and again."""
    got: list[str] = []
    for _ in range(seats):
        for session_id, entrant in list(places.items()):
            position, _ = await tenants.wait(session_id, entrant, alive_s=60, most=100, most_of_tenant=30)
            if position == 0:
                record = Session(tenant=entrant.tenant, model=next(iter((await store.models())[0].values())))
                await store.open(record, entrant, session_id)
                await store.end(session_id, entrant.tenant)
                got.append(entrant.tenant)
                del places[session_id]
                break
    return got


async def entrant_of(tenants: TenantStore, name: str, priority: int) -> Entrant:
    return await tenants.entrant((await tenants.add(name, Quotas(priority=priority), 0)).key)


async def turns(
    store: SessionStore, announcement: AnnounceRequest, waiters: dict[str, tuple[int, int]], seats: int
) -> list[str]:
    """Who gets a single seat, one after the other. waiters: of each tenant its priority and how many wait."""
    tenants, places = TenantStore(store), dict[str, Entrant]()
    announcement.slots = 0
    await store.announce(announcement)
    for name, (priority, count) in waiters.items():
        entrant = await entrant_of(tenants, name, priority)
        places |= {await waiting(tenants, entrant): entrant for _ in range(count)}
    announcement.slots = 1
    await store.announce(announcement)
    return await order(store, tenants, places, seats)


async def test_tenants_take_turns_however_many_of_one_wait(
    store: SessionStore, announcement: AnnounceRequest
) -> None:
    got = await turns(store, announcement, {"flood": (5, 20), "calm": (5, 3)}, 8)
    assert got.count("calm") == 3
    assert got[:6].count("calm") >= 2


async def test_turns_are_shared_out_by_priority(store: SessionStore, announcement: AnnounceRequest) -> None:
    got = await turns(store, announcement, {"low": (2, 20), "high": (6, 20)}, 16)
    assert got.count("high") == 12


async def test_no_tenant_fills_the_queue(store: SessionStore, announcement: AnnounceRequest) -> None:
    tenants = TenantStore(store)
    announcement.slots = 0
    await store.announce(announcement)
    flood, calm = await entrant_of(tenants, "flood", 5), await entrant_of(tenants, "calm", 5)
    for _ in range(30):
        await waiting(tenants, flood)
    with pytest.raises(errors.QueueFull):
        await waiting(tenants, flood)
    await waiting(tenants, calm)


async def test_the_wait_that_is_told_comes_from_how_long_others_waited(
    store: SessionStore, announcement: AnnounceRequest
) -> None:
    tenants = TenantStore(store)
    announcement.slots = 0
    await store.announce(announcement)
    calm = await entrant_of(tenants, "calm", 5)
    places = {await waiting(tenants, calm): calm for _ in range(5)}
    assert [(await tenants.wait(each, calm, alive_s=60, most=9, most_of_tenant=9))[1] for each in places] == [
        0.0
    ] * 5
    await asyncio.sleep(0.3)
    announcement.slots = 1
    await store.announce(announcement)
    await order(store, tenants, places, 1)
    announcement.slots = 0
    await store.announce(announcement)
    waits = sorted([await tenants.wait(each, calm, alive_s=60, most=9, most_of_tenant=9) for each in places])
    assert [position for position, _ in waits] == [1, 2, 3, 4]
    assert waits[3][1] - waits[0][1] == pytest.approx(3 * 0.3, rel=0.9)
    assert waits[0][1] > 0


async def playing(stub: Sessions, key: NewKey) -> tuple[Session, Following]:
    session = await stub.Open(OpenRequest(), metadata=bearer(key.key))
    await stub.Claim(ClaimRequest(session_id=session.session_id, replica="engine-1"))
    follow = await following(stub, session.session_id, 1)
    # Counted among those who may be asked to go once it was metered there.
    await asyncio.sleep(0.3)
    return session, follow


async def test_a_higher_priority_gets_the_seat_of_a_lower_one_after_a_notice(
    session_stub: Sessions, admin_stub: Admin, announcement: AnnounceRequest
) -> None:
    announcement.slots = 2
    await session_stub.Announce(announcement)
    low, high = (
        await added(admin_stub, "low", Quotas(priority=2)),
        await added(admin_stub, "high", Quotas(priority=8)),
    )
    older, _older_follow = await playing(session_stub, low)
    newer, follow = await playing(session_stub, low)
    waits_too = session_stub.Wait(OpenRequest(), metadata=bearer(low.key))
    assert await place(waits_too) == 1
    notices = session_stub.Notices(NoticesRequest(session_id=newer.session_id), metadata=bearer(newer.token))
    call = session_stub.Wait(OpenRequest(), metadata=bearer(high.key))
    told = await asyncio.wait_for(notices.read(), DEADLINE_S)
    assert getattr(told, "reason", "") == "preempted"
    session = await session_of(call)
    assert session.tenant == "high"
    assert isinstance(await refused(notices.read()), errors.Preempted)
    assert await asyncio.wait_for(follow.code(), DEADLINE_S) is grpc.StatusCode.OK
    ended = await session_stub.Get(GetRequest(session_id=newer.session_id), metadata=bearer(newer.token))
    assert ended.ended == "preempted"
    goes_on = await session_stub.Get(GetRequest(session_id=older.session_id), metadata=bearer(older.token))
    assert (goes_on.ended, goes_on.notice.reason) == ("", "")
    waits_too.cancel()


async def test_a_notice_is_taken_back_when_nobody_needs_the_seat_any_more(
    session_stub: Sessions, admin_stub: Admin, announcement: AnnounceRequest
) -> None:
    announcement.slots = 1
    await session_stub.Announce(announcement)
    low, high = (
        await added(admin_stub, "low", Quotas(priority=2)),
        await added(admin_stub, "high", Quotas(priority=8)),
    )
    session, _follow = await playing(session_stub, low)
    notices = session_stub.Notices(
        NoticesRequest(session_id=session.session_id), metadata=bearer(session.token)
    )
    call = session_stub.Wait(OpenRequest(), metadata=bearer(high.key))
    await said(call)
    assert getattr(await asyncio.wait_for(notices.read(), DEADLINE_S), "reason", "") == "preempted"
    call.cancel()
    assert getattr(await asyncio.wait_for(notices.read(), DEADLINE_S), "reason", "x") == ""
    await asyncio.sleep(0.8)
    get = GetRequest(session_id=session.session_id)
    assert (await session_stub.Get(get, metadata=bearer(session.token))).ended == ""


async def test_one_who_waits_for_a_quota_that_is_used_up_is_told_so(
    session_stub: Sessions, admin_stub: Admin, announcement: AnnounceRequest
) -> None:
    announcement.slots = 1
    await session_stub.Announce(announcement)
    key = await added(admin_stub, "acme", Quotas(sessions=2))
    await session_stub.Open(OpenRequest(), metadata=bearer(key.key))
    first = session_stub.Wait(OpenRequest(), metadata=bearer(key.key))
    assert await place(first) == 1
    second = session_stub.Wait(OpenRequest(), metadata=bearer(key.key))
    assert isinstance(await refused(second.read()), errors.QuotaExceeded)
    await admin_stub.Revoke(RevokeRequest(name="acme"))
    assert isinstance(await refused(first.read()), errors.Unauthenticated)
