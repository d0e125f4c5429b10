"""Who goes on with a session of a tenant that has ended is told why, and pays in whatever epoch it is."""

import pytest
from redis.asyncio import Redis

from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services import errors
from services.sessions import scripts
from services.sessions.store import SessionStore
from services.sessions.tenants import TenantStore
from tests.services.asking import control


@pytest.fixture
async def played(patient: SessionStore, announcement: AnnounceRequest, road: Model) -> str:
    """A session of tenant acme that engine-1 plays in epoch 1."""
    tenants = TenantStore(patient)
    entrant = await tenants.entrant((await tenants.add("acme", Quotas(), 0)).key)
    await patient.announce(announcement)
    session = await patient.open(Session(model=road, tenant="acme"), entrant)
    await patient.claim(session.session_id, "engine-1", after_epoch=0)
    await metered(patient, session.session_id, 1, 0)
    return session.session_id


async def metered(store: SessionStore, session_id: str, epoch: int, latents: int) -> None:
    await TenantStore(store).meter(session_id, "acme", epoch, latents, keep_s=30.0, notice_s=10.0)


async def test_whoever_asks_for_a_revoked_session_is_told_why_it_ended(
    patient: SessionStore, played: str
) -> None:
    assert await TenantStore(patient).revoke("acme") == 1
    for asked in (
        patient.place(played, lost_epoch=1, without="engine-1"),
        patient.claim(played, "engine-1", after_epoch=1),
        patient.push(played, control(1, played)),
        patient.attach(played),
        metered(patient, played, 1, 5),
    ):
        with pytest.raises(errors.Revoked):
            await asked


async def test_a_session_that_was_away_when_its_key_was_revoked_ends_when_it_comes_back(
    patient: SessionStore, played: str
) -> None:
    await patient.release(played, 1)
    await patient.door.redis.delete("{livevideo}:tenant:acme:open")  # it was away for longer than a lease
    assert await TenantStore(patient).revoke("acme") == 0
    assert (await patient.claim(played, "engine-1", after_epoch=1)).epoch == 2
    with pytest.raises(errors.Revoked):
        await metered(patient, played, 2, 5)


async def test_an_epoch_that_redis_lost_is_paid_for(
    patient: SessionStore, played: str, valkey_url: str
) -> None:
    await patient.claim(played, "engine-1", after_epoch=1)
    async with Redis.from_url(valkey_url) as redis:
        await redis.hset(scripts.session_key(played, "session"), "epoch", 1)
    await metered(patient, played, 2, 5)
    assert [day.latents for day in await TenantStore(patient).usage("acme", 2)][-1] == 5
    with pytest.raises(errors.Superseded):
        await metered(patient, played, 0, 9)
