"""What breaks a promise is counted where it happens, and a slow viewer breaks none."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from prometheus_client import REGISTRY

from livevideo.v1.session_pb2 import OpenRequest, Session
from loadtests.comeback import Viewer
from tests.system.fleet import Fleet

DEADLINE_S = 60.0
FRAMES = 120
STRUCK_AT = 40


def counted(name: str, session: Session, **labels: str) -> float:
    found = {"tenant": session.tenant, "model": session.model.name, **labels}
    return REGISTRY.get_sample_value(name, found) or 0.0


async def played(fleet: Fleet, tenant: str, meanwhile: Callable[[Session, Viewer, int], None]) -> Session:
    """A session of FRAMES frames; `meanwhile` is told each one, and shows it."""
    session = await fleet.sessions.Open(OpenRequest(tenant=tenant, seed=5))
    viewer = fleet.viewer(session)
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            meanwhile(session, viewer, frame.index)
            if frame.index == FRAMES:
                return session
    raise AssertionError("the session has ended")


async def test_an_engine_that_dies_costs_a_stall_and_late_frames_but_no_session(fleet: Fleet) -> None:
    striking = set[asyncio.Task[None]]()

    async def strike(session: Session) -> None:
        await fleet.strike(await fleet.playing(session))

    def meanwhile(session: Session, viewer: Viewer, index: int) -> None:
        viewer.show(index)
        if index == STRUCK_AT:
            striking.add(asyncio.create_task(strike(session)))

    session = await played(fleet, "struck", meanwhile)
    assert 0.0 < counted("stalled_seconds_total", session) < 10.0
    assert counted("frames_total", session, timing="late") >= 1
    assert counted("frames_total", session, timing="held_up") == 0
    assert counted("first_frame_seconds_count", session) == 1
    assert counted("session_outcomes_total", session, outcome="opened") == 1
    assert counted("session_outcomes_total", session, outcome="failed") == 0


async def test_a_viewer_that_shows_nothing_for_a_while_breaks_no_promise(fleet: Fleet) -> None:
    loop = asyncio.get_running_loop()

    def meanwhile(session: Session, viewer: Viewer, index: int) -> None:
        if STRUCK_AT <= index < STRUCK_AT + 12:
            loop.call_later(1.7, viewer.show, index)
        else:
            viewer.show(index)

    session = await played(fleet, "dozing", meanwhile)
    assert counted("frames_total", session, timing="held_up") >= 1
    assert counted("stalled_seconds_total", session) < 0.9
