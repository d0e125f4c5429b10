"""SessionStore against a real Valkey: seats, epochs and controls, each change whole or not at all."""

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.session_pb2 import (
    AnnounceRequest,
    Model,
    Session,
    SessionState,
)
from services import errors
from services.sessions import scripts
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import control


@pytest.fixture
def limits() -> StoreLimits:
    return StoreLimits(live_seat_s=0.6, lease_s=1.0, command_s=2.0)


async def test_concurrent_opens_never_take_more_seats_than_there_are(
    patient: SessionStore, road: Model
) -> None:
    for replica, slots in (("a", 3), ("b", 4), ("full", 0)):
        await patient.announce(
            AnnounceRequest(replica=replica, address=f"{replica}:1", model=road, slots=slots)
        )
    opened = await asyncio.gather(
        *(patient.open(Session(model=road)) for _ in range(50)), return_exceptions=True
    )
    seated = [session.replica for session in opened if isinstance(session, Session)]
    assert sorted(seated) == ["a"] * 3 + ["b"] * 4
    assert all(isinstance(other, errors.EngineFull) for other in opened if not isinstance(other, Session))


async def test_a_closed_session_frees_its_seat_at_once(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    announcement.slots = 1
    await patient.announce(announcement)
    first = await patient.open(Session(model=road))
    with pytest.raises(errors.EngineFull):
        await patient.open(Session(model=road))
    await patient.end(first.session_id)
    await patient.end(first.session_id)
    assert (await patient.open(Session(model=road))).replica == "engine-1"
    assert (await patient.find(first.session_id)).state == SessionState.SESSION_STATE_CLOSED


async def test_a_seat_that_nobody_claimed_lapses_and_is_given_to_another(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(waiting_seat_s=0.05, lease_s=60))
    announcement.slots = 1
    await store.announce(announcement)
    late = await store.open(Session(model=road))
    await asyncio.sleep(0.1)
    other = await store.open(Session(model=road))
    await store.claim(other.session_id, "engine-1")
    with pytest.raises(errors.EngineFull):
        await store.claim(late.session_id, "engine-1")
    await store.close()


async def test_a_second_claim_is_refused_while_the_first_seat_lives(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session = await patient.open(Session(model=road, image=b"png", prompt="a road"))
    claimed = await patient.claim(session.session_id, "engine-1")
    assert (claimed.epoch, claimed.image, claimed.prompt) == (1, b"png", "a road")
    assert claimed.state == SessionState.SESSION_STATE_LIVE
    with pytest.raises(errors.SeatTaken):
        await patient.claim(session.session_id, "engine-1")
    await patient.release(session.session_id, 1)
    assert (await patient.claim(session.session_id, "engine-1")).epoch == 2


async def test_one_of_many_concurrent_claims_wins(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session = await patient.open(Session(model=road))
    claims = await asyncio.gather(
        *(patient.claim(session.session_id, "engine-1") for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(claim, Session) for claim in claims) == 1
    assert sum(isinstance(claim, errors.SeatTaken) for claim in claims) == 19


async def test_a_dead_replica_loses_its_sessions_to_a_live_one(
    store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await store.announce(announcement)
    session = await store.open(Session(model=road))
    await store.claim(session.session_id, "engine-1")
    await asyncio.sleep(1.2)  # its lease and its seat lapse
    with pytest.raises(errors.NoEngine):
        await store.open(Session(model=road))
    assert await store.models() == ({}, {"road"})
    announcement.replica, announcement.address = "engine-2", "127.0.0.1:2"
    await store.announce(announcement)
    found = await store.place(session.session_id)
    assert (found.replica, found.replica_address) == ("engine-2", "127.0.0.1:2")
    assert (await store.claim(session.session_id, "engine-2")).epoch == 2


async def test_a_replica_that_stops_gives_its_sessions_to_another_before_its_lease_ends(
    patient: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session = await patient.open(Session(model=road))
    await patient.claim(session.session_id, "engine-1")
    await patient.release(session.session_id, 1)
    assert (await patient.place(session.session_id)).replica_address == announcement.address
    await patient.announce(AnnounceRequest(replica="other", address="other:1", model=road, slots=1))
    announcement.slots = 0
    await patient.announce(announcement)
    assert (await patient.place(session.session_id)).replica_address == "other:1"


async def test_an_engine_of_an_old_epoch_changes_nothing(
    store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await store.announce(announcement)
    session_id = (await store.open(Session(model=road))).session_id
    await store.claim(session_id, "engine-1")
    await asyncio.sleep(0.7)  # its seat lapses
    await store.claim(session_id, "engine-1")
    with pytest.raises(errors.Superseded):
        await store.renew(session_id, 1)
    with pytest.raises(errors.Superseded):
        await store.obeyed(session_id, 1, ControlReceipt(seq=1))
    with pytest.raises(errors.Superseded):
        await store.read_controls(session_id, 1, b"0-0")
    await store.release(session_id, 1)
    await store.renew(session_id, 2)


async def test_a_session_expires_when_nothing_is_heard_of_it(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(unclaimed_s=0.05, lease_s=60))
    await store.announce(announcement)
    session = await store.open(Session(model=road))
    await asyncio.sleep(0.1)
    with pytest.raises(errors.UnknownSession):
        await store.find(session.session_id)
    await store.close()


async def test_old_and_repeated_seqs_are_refused_whichever_store_they_come_through(
    patient: SessionStore, store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    await patient.announce(announcement)
    session_id = (await patient.open(Session(model=road))).session_id
    top = 2**64 - 1  # more than a Lua number can hold
    assert await patient.push(session_id, control(9)) is None
    assert await store.push(session_id, control(9)) == 9
    assert await store.push(session_id, control(10)) is None
    assert await patient.push(session_id, control(9)) == 10
    assert await patient.push(session_id, control(top - 1)) is None
    assert await store.push(session_id, control(top - 1)) == top - 1
    assert await store.push(session_id, control(top)) is None
    _, controls = await patient.read_controls(session_id, 1, b"0-0")
    assert [stored.event.seq for stored in controls] == [9, 10, top - 1, top]


async def test_the_record_of_controls_is_capped(
    valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    store = SessionStore(valkey_url, StoreLimits(controls_kept=100, lease_s=60))
    await store.announce(announcement)
    session_id = (await store.open(Session(model=road))).session_id
    for seq in range(1, 501):
        await store.push(session_id, control(seq))
    _, controls = await store.read_controls(session_id, 1, b"0-0")
    assert len(controls) < 256
    assert (await store.read_controls(session_id, 1, b"499-0"))[1][0].event.seq == 500
    await store.close()


async def test_a_clock_that_was_set_back_does_not_keep_the_dead_alive(
    store: SessionStore, valkey_url: str, announcement: AnnounceRequest, road: Model
) -> None:
    redis = Redis.from_url(valkey_url)
    replicas, seats = (scripts.placing_keys("road")[i] for i in (0, 2))
    await store.announce(AnnounceRequest(replica="dead", address="dead:1", model=road, slots=4))
    await store.open(Session(model=road))
    in_an_hour_ms = 1000 * (time.time() + 3600)
    await redis.zadd(replicas, {"dead": in_an_hour_ms})
    held: list[Any] = await redis.zrange(seats, 0, -1)
    seated = held[0]
    await redis.zadd(seats, {seated: in_an_hour_ms})
    await store.announce(announcement)
    now_ms = 1000 * time.time()
    assert (await redis.zscore(replicas, "dead") or 0) <= now_ms + 1000
    assert (await redis.zscore(seats, seated) or 0) <= now_ms + 30_000
    await redis.aclose()
