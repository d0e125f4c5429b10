"""Whoever pays, pays for each latent once, whatever dies meanwhile."""

import asyncio
from contextlib import aclosing

import pytest

from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, OpenRequest
from services.credentials import bearer
from tests.system.conftest import DEADLINE_S
from tests.system.fleet import Fleet

IN_FLIGHT = 4  # latents that may be made and not shown
FRAMES = 81


async def used(fleet: Fleet) -> int:
    """Latents, over the days: a test may run at midnight."""
    return sum(day.latents for day in await fleet.tenants.usage("acme", 2))


@pytest.mark.slow
async def test_latents_are_counted_once_when_engines_and_decoders_die(fleet: Fleet) -> None:
    made = await fleet.tenants.add("acme", Quotas(), 0)
    session = await fleet.sessions.Open(OpenRequest(seed=5), metadata=bearer(made.key))
    token, viewer, next_index = bearer(session.token), fleet.viewer(session), 0
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            assert frame.index == next_index
            next_index += 1
            viewer.show(frame.index)
            if frame.index == 20:
                found = await fleet.sessions.Get(GetRequest(session_id=session.session_id), metadata=token)
                await fleet.strike(found.replica)
            if frame.index == 50:
                await fleet.strike("decoder-1")
            if next_index == FRAMES:
                break
    await fleet.sessions.Close(CloseRequest(session_id=session.session_id), metadata=token)
    shown = (FRAMES + 3) // 4
    async with asyncio.timeout(DEADLINE_S):
        while await used(fleet) < shown:  # noqa: ASYNC110 (another service)
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # what is said last
    assert shown <= await used(fleet) <= shown + IN_FLIGHT
