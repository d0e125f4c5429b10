"""Every script of tenants on Debian's Redis and on Valkey, as a cluster, with the rights that are needed."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services import errors
from services.sessions.keys import new_session_id
from services.sessions.store import SessionStore, StoreLimits
from services.sessions.tenants import TenantStore
from tests.services.servers import ACL, REDIS, VALKEY, Server, free_port, started, until

needs_redis = pytest.mark.skipif(not REDIS, reason="Debian's redis-server is not installed")


@pytest.mark.parametrize("binary", [pytest.param(REDIS, marks=needs_redis), VALKEY], ids=["redis", "valkey"])
async def test_every_script_of_tenants_runs_on_a_cluster_with_few_rights(
    binary: str, tmp_path: Path, announcement: AnnounceRequest, road: Model
) -> None:
    node = Server(
        binary, tmp_path, "cluster-enabled yes", f"cluster-port {free_port()}", f"user app on >secret {ACL}"
    )
    async with started(node):
        async with Redis(port=node.port) as client:
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(client, "CLUSTER INFO", "cluster_state:ok")
        store = SessionStore(
            f"redis+cluster://app:secret@127.0.0.1:{node.port}",
            StoreLimits(live_seat_s=60, lease_s=60, command_s=5),
            block_s=0.2,
        )
        try:
            await administered(TenantStore(store), store, announcement, road)
        finally:
            await store.close()


async def administered(
    tenants: TenantStore, store: SessionStore, announcement: AnnounceRequest, road: Model
) -> None:
    """Every script at least once."""
    announcement.slots = 1
    await store.announce(announcement)
    made = await tenants.add("acme", Quotas(sessions=3, session_s=100, idle_s=50, minutes_per_day=5), 3600)
    entrant = await tenants.entrant(made.key)
    assert (entrant.tenant, entrant.quotas.sessions) == ("acme", 3)
    session = await store.open(Session(model=road, tenant="acme"), entrant)
    assert (await tenants.holder(session.session_id)).tenant == "acme"
    await store.claim(session.session_id, "engine-1")
    meter = {"keep_s": 30.0, "notice_s": 1000.0}  # so long before its end that it is told at once
    await tenants.meter(session.session_id, "acme", 1, 0, **meter)
    await tenants.meter(session.session_id, "acme", 1, 5, **meter)
    notice = (await tenants.holder(session.session_id)).notice
    assert notice is not None
    assert notice.reason == "idle"

    high = await tenants.entrant((await tenants.add("high", Quotas(priority=9), 0)).key)
    place = new_session_id("road")
    waits = {"alive_s": 60.0, "most": 9, "most_of_tenant": 9}
    assert (await tenants.wait(place, high, **waits))[0] == 1  # type: ignore[arg-type]
    await tenants.meter(session.session_id, "acme", 1, 5, **meter)
    await tenants.quit(place, high)
    assert (await tenants.wait(place, high, **waits))[0] == 1  # type: ignore[arg-type]
    await store.end(session.session_id, "acme")
    assert (await tenants.wait(place, high, **waits))[0] == 0  # type: ignore[arg-type]
    await store.open(Session(model=road, tenant="high"), high, place)

    await tenants.change("acme", Quotas(sessions=1))
    await tenants.rotate("acme", 60, 0)
    assert [(tenant.name, len(tenant.keys), tenant.sessions) for tenant in await tenants.all()] == [
        ("acme", 2, 0),
        ("high", 1, 1),
    ]
    assert sum(day.latents for day in await tenants.usage("acme", 2)) == 5
    assert await tenants.revoke("high") == 1
    assert (await tenants.holder(place)).ended == "revoked"
    with pytest.raises(errors.Unauthenticated):
        await store.open(Session(model=road, tenant="high"), high)
