"""Tenants, certificates, logs and failover at once: what only all of them together can break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from aapt.checkpoint import Model
from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, OpenRequest, Session
from services import errors
from services.credentials import bearer
from services.replay.logged import read
from tests.services.asking import refused
from tests.services.certificates import Authority
from tests.system.conftest import DEADLINE_S
from tests.system.fleet import Fleet

LATENTS_IN_FLIGHT = 3  # as decoders are set
FRAMES = 81  # of whole latents


@pytest.fixture
async def secure(model: Model, tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet behind TLS."""
    started = Fleet(model, Authority(tmp_path))
    await started.start()
    yield started
    await started.stop()


async def opened(fleet: Fleet, tenant: str) -> tuple[Session, str]:
    """A session of a new tenant, and its key."""
    key = (await fleet.tenants.add(tenant, Quotas(sessions=1), 0)).key
    return await fleet.sessions.Open(OpenRequest(seed=5), metadata=bearer(key)), key


async def used(fleet: Fleet, tenant: str) -> tuple[int, int]:
    """Sessions and latents, over the days: a test may run at midnight."""
    days = await fleet.tenants.usage(tenant, 2)
    return sum(day.sessions for day in days), sum(day.latents for day in days)


@pytest.mark.slow
async def test_a_tenants_session_outlives_its_engine_and_decoder_and_is_paid_and_logged_to_the_latent(
    secure: Fleet, model: Model
) -> None:
    session, _ = await opened(secure, "acme")
    _, other_key = await opened(secure, "other")
    viewer, next_index = secure.viewer(session), 0
    # What was shown lets so many more be made, and no more, whoever makes them.
    allowed = (1, (FRAMES - 1) // 4 + 1 + LATENTS_IN_FLIGHT)
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            assert frame.index == next_index, "no frame is skipped or sent twice"
            next_index += 1
            viewer.show(frame.index)
            if frame.index == 20:
                await secure.strike(await secure.playing(session))
            if frame.index == 50:
                await secure.strike("decoder-1")
            if next_index == FRAMES:
                break
        while await used(secure, "acme") != allowed:  # noqa: ASYNC110 (another service)
            await asyncio.sleep(0.05)
    asked = GetRequest(session_id=session.session_id)
    foreign = await refused(secure.sessions.Get(asked, metadata=bearer(other_key)))
    assert isinstance(foreign, errors.UnknownSession)
    closing = CloseRequest(session_id=session.session_id)
    await secure.sessions.Close(closing, metadata=bearer(session.token))

    async with asyncio.timeout(DEADLINE_S):
        while True:
            logged = await read(secure.internal_address, session.session_id, secure.tls("replay"))
            again = logged.played_again(model)
            if len(again.film()) >= allowed[1]:
                break
            await asyncio.sleep(0.5)  # logs come once a second
    assert again.difference is None, "each latent is what was played, to the bit"
    assert again.epochs >= 2
    assert (1, len(again.film())) == allowed == await used(secure, "acme")
    assert logged.session.tenant == "acme"
    assert not logged.session.token


@pytest.mark.slow
async def test_a_tenant_that_is_revoked_while_its_session_fails_over_is_told_so(fleet: Fleet) -> None:
    session, key = await opened(fleet, "acme")
    viewer = fleet.viewer(session)
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            viewer.show(frame.index)
            if frame.index == 20:
                await fleet.strike("engine-1")
                await fleet.strike("engine-2")
                assert await fleet.tenants.revoke("acme") == 1
    found = await fleet.sessions.Get(
        GetRequest(session_id=session.session_id), metadata=bearer(session.token)
    )
    assert found.ended == "revoked"
    assert isinstance(
        await refused(fleet.sessions.Open(OpenRequest(), metadata=bearer(key))), errors.Unauthenticated
    )
