"""A session outlives its engine, its decoder and both: real services on ports of their own are struck."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor

from aapt.checkpoint import Model
from aapt.rollout import Rollout
from aapt.vae.streaming import StreamingVAE, for_serving
from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.session_pb2 import OpenRequest, Session
from livevideo_client.comeback import Viewer
from tests.system.fleet import Fleet

DEADLINE_S = 60.0
SEED = 5
FRAMES = 64
STRUCK_AT = 14  # frames; all of its latents are seen by the next: the window is 4
CLOSE_DB = 45.0


@pytest.fixture(scope="module")
def expected(model: Model) -> np.ndarray:
    """The frames of a session under which nothing is struck."""
    rollout, codec = Rollout(model, 1), StreamingVAE(for_serving(model.vae))
    frames = [codec.decode(rollout.open(0, None, "", SEED))]
    still = torch.zeros(4, len(model.preset.keys))
    while sum(map(len, frames)) < FRAMES:
        frames.append(codec.decode(rollout.step({0: still})[0]))
    return torch.cat(frames).flatten(1).numpy().astype(float)


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


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    frames = min(len(one), len(other))
    error = np.square(one[:frames] - other[:frames]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("leaves", [False, True], ids=["dies", "leaves"])
@pytest.mark.parametrize("struck", ["engine", "decoder-1", "engine decoder-1"])
async def test_a_session_goes_on_as_if_nothing_had_happened_whatever_dies_or_leaves(
    fleet: Fleet, expected: np.ndarray, struck: str, leaves: bool
) -> None:
    async def strike(session: Session) -> None:
        engine = await fleet.playing(session)
        names = [engine if name == "engine" else name for name in struck.split()]
        await asyncio.gather(*(fleet.leave(name) if leaves else fleet.strike(name) for name in names))

    seen, viewer = await played(fleet, strike)
    assert psnr_db(seen, expected) > CLOSE_DB
    assert viewer.comebacks.count == ("decoder" in struck)


async def test_an_engine_whose_step_does_not_end_is_left_and_offers_nothing(fleet: Fleet) -> None:
    let_go = threading.Event()

    async def hang(session: Session) -> None:
        world = fleet.worlds[await fleet.playing(session)]
        world.step = lambda controls: dict[int, Tensor]() if let_go.wait() else {}  # type: ignore[method-assign]

    try:
        _, viewer = await played(fleet, hang)
        assert viewer.comebacks.count == 0, "the decoder alone knows of it"
        troubles = [engine.trouble() or "" for engine in fleet.engines]
        assert sum("a step has been running for" in trouble for trouble in troubles) == 1
    finally:
        let_go.set()


async def test_a_viewer_that_is_silent_loses_its_seat_to_one_that_comes_and_learns_it(fleet: Fleet) -> None:
    session = await fleet.sessions.Open(OpenRequest(seed=SEED))
    old, new = fleet.viewer(session), fleet.viewer(session)
    seen = list[int]()

    async def watch_and_fall_silent() -> None:
        async with aclosing(old.frames()) as coming:
            async for frame in coming:
                seen.append(frame.index)
                if frame.index < STRUCK_AT:
                    old.show(frame.index)

    async with asyncio.timeout(DEADLINE_S):
        silent = asyncio.ensure_future(watch_and_fall_silent())
        while not seen or seen[-1] < STRUCK_AT:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        async with aclosing(new.frames(from_frame=STRUCK_AT)) as coming:
            frames = [await anext(coming) for _ in range(24)]
        with pytest.raises(grpc.aio.AioRpcError) as ending:
            await silent
        assert ending.value.code() is grpc.StatusCode.ABORTED
    assert [frame.index for frame in frames] == [*range(STRUCK_AT, STRUCK_AT + 24)]


async def test_play_goes_on_while_redis_hangs_and_no_control_is_lost(fleet: Fleet) -> None:
    session = await fleet.sessions.Open(OpenRequest(seed=SEED))
    viewer, sender = fleet.viewer(session), fleet.sender(session)
    accepted, frozen_at, thawed = set[int](), 24, 24 + 72
    assert fleet.store._child is not None

    async def hear() -> None:
        async for receipt in sender.receipts():
            if receipt.HasField("accepted"):
                accepted.add(receipt.seq)

    hearing = asyncio.create_task(hear())
    async with asyncio.timeout(DEADLINE_S), aclosing(viewer.frames()) as coming:
        async for frame in coming:
            viewer.show(frame.index)
            if frame.index % 12 == 0 and frame.index < thawed + 24:
                sender.send(
                    ControlEvent(session_id=session.session_id, seq=frame.index // 12 + 1, keys=Keys())
                )
            if frame.index in (frozen_at, thawed):
                fleet.store._child.send_signal(signal.SIGSTOP if frame.index == frozen_at else signal.SIGCONT)
            if frame.control_seq == (thawed + 24) // 12:
                break
    hearing.cancel()
    assert accepted == {*range(1, (thawed + 24) // 12 + 1)}
    assert viewer.comebacks.count == 0
    assert sender.comebacks.count >= 1


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
