"""A session outlives its engine, its decoder and both: real services on ports of their own are struck."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import numpy as np
import pytest

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.session_pb2 import OpenRequest, Session
from loadtests.comeback import Viewer
from tests.system.fleet import Fleet

DEADLINE_S = 60.0
SEED = 5
FRAMES = 64
STRUCK_AT = 14  # frames; all of its latents are seen by the next: the window is 4
CLOSE_DB = 45.0


async def played(
    fleet: Fleet, strike: Callable[[Session], Awaitable[None]], *, frames: int = FRAMES
) -> tuple[np.ndarray, Viewer]:
    """All frames of a session under which something is struck, which must come once and in order."""
    session = await fleet.sessions.Open(OpenRequest(seed=SEED))
    viewer, seen = fleet.viewer(session), list[np.ndarray]()
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            assert frame.index == len(seen)
            viewer.show(frame.index)
            seen.append(np.frombuffer(frame.picture, np.uint8).astype(float))
            if frame.index == STRUCK_AT:
                striking = asyncio.ensure_future(strike(session))
            if len(seen) >= frames and striking.done():
                await striking
                return np.stack(seen), viewer
    raise AssertionError("the session has ended")


async def nothing(session: Session) -> None: ...


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    frames = min(len(one), len(other))
    error = np.square(one[:frames] - other[:frames]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("leaves", [False, True], ids=["dies", "leaves"])
@pytest.mark.parametrize("struck", ["engine", "decoder-1", "engine decoder-1"])
async def test_a_session_goes_on_as_if_nothing_had_happened_whatever_dies_or_leaves(
    fleet: Fleet, struck: str, leaves: bool
) -> None:
    expected, _ = await played(fleet, nothing)

    async def strike(session: Session) -> None:
        engine = await fleet.playing(session)
        names = [engine if name == "engine" else name for name in struck.split()]
        await asyncio.gather(*(fleet.leave(name) if leaves else fleet.strike(name) for name in names))

    seen, viewer = await played(fleet, strike)
    assert psnr_db(seen, expected) > CLOSE_DB
    assert viewer.comebacks.count == ("decoder" in struck)


async def test_every_control_is_obeyed_once_and_in_order_whatever_dies(fleet: Fleet) -> None:
    session = await fleet.sessions.Open(OpenRequest(seed=SEED))
    viewer, sender = fleet.viewer(session), fleet.sender(session)
    accepted, obeyed_seq, next_index = set[int](), 0, 0

    async def hear() -> None:
        async for receipt in sender.receipts():
            assert not receipt.HasField("refused"), receipt
            if receipt.HasField("accepted"):
                accepted.add(receipt.seq)

    hearing = asyncio.create_task(hear())
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            assert frame.index == next_index
            assert frame.control_seq >= obeyed_seq, "what was obeyed stays obeyed"
            next_index, obeyed_seq = frame.index + 1, frame.control_seq
            viewer.show(frame.index)
            if frame.index % 3 == 0 and frame.index < 120:
                seq = frame.index // 3 + 1
                sender.send(
                    ControlEvent(session_id=session.session_id, seq=seq, keys=Keys(down=["left"][seq % 2 :]))
                )
            if frame.index == 30:
                await fleet.strike(await fleet.playing(session))
            if frame.index == 80:
                await fleet.strike("decoder-1")
            if obeyed_seq == 40:
                break
    hearing.cancel()
    assert accepted == {*range(1, 41)}
