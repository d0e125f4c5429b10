"""What breaks a promise is counted where it happens, and a slow viewer breaks none."""

import asyncio
from contextlib import aclosing

from prometheus_client import REGISTRY

from livevideo.v1.session_pb2 import OpenRequest, Session
from tests.system.fleet import Fleet

DEADLINE_S = 60.0
FRAMES = 120
STRUCK_AT = 40


def counted(name: str, session: Session, **labels: str) -> float:
    found = {"tenant": session.tenant, "model": session.model.name, **labels}
    return REGISTRY.get_sample_value(name, found) or 0.0


async def test_a_session_that_no_engine_goes_on_with_has_failed_and_stood_still(fleet: Fleet) -> None:
    session = await fleet.sessions.Open(OpenRequest(tenant="struck", seed=5))
    viewer = fleet.viewer(session)

    async def watch() -> None:
        async with aclosing(viewer.frames()) as coming:
            async for frame in coming:
                viewer.show(frame.index)
                if frame.index == STRUCK_AT:
                    await asyncio.gather(*(fleet.strike(f"engine-{number}") for number in (1, 2)))

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(DEADLINE_S):
        while not counted("session_outcomes_total", session, outcome="failed"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert 3.0 < counted("stalled_seconds_total", session) < 30.0
    assert counted("first_frame_seconds_count", session) == 1
    assert counted("session_outcomes_total", session, outcome="opened") == 1


async def test_a_viewer_that_shows_nothing_for_a_while_breaks_no_promise(fleet: Fleet) -> None:
    session = await fleet.sessions.Open(OpenRequest(tenant="dozing", seed=5))
    viewer, loop = fleet.viewer(session), asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            if STRUCK_AT <= frame.index < STRUCK_AT + 12:
                loop.call_later(1.7, viewer.show, frame.index)
            else:
                viewer.show(frame.index)
            if frame.index == FRAMES:
                break
    assert counted("frames_total", session, timing="held_up") >= 1
    assert counted("stalled_seconds_total", session) < 0.9
