"""A plain loop that is interrupted, left or entered from the wrong side neither hangs nor fails otherwise."""

import asyncio
import signal
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import cast

import pytest

from livevideo.v1.frame_pb2 import Frame
from livevideo_client import BlockingWorld, World
from livevideo_client.blocking import _Loop


class Scripted:
    """A world of so many frames, which then has none for a while."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.is_closed = False
        self.is_waiting = threading.Event()
        self.ended = 0  # of its iterators

    async def frames(self) -> AsyncGenerator[Frame, None]:
        try:
            for index in range(self._count):
                yield Frame(index=index)
            self.is_waiting.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.ended += 1

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def loop() -> Iterator[_Loop]:
    loop = _Loop()
    yield loop
    if not loop.is_over:
        loop.stop()


def test_a_callback_that_would_wait_for_itself_is_refused(loop: _Loop) -> None:
    world = BlockingWorld(loop, cast(World, Scripted(0)))

    async def call_back() -> None:
        world.hold("up")

    with pytest.raises(RuntimeError, match="callback"):
        asyncio.run_coroutine_threadsafe(call_back(), loop._loop).result(5.0)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What a shell starts in the background ignores interrupts, and so would all of its tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_who_is_interrupted_before_the_first_frame_is_just_that(loop: _Loop) -> None:
    scripted = Scripted(0)
    player = threading.get_ident()

    def interrupt() -> None:
        scripted.is_waiting.wait()
        signal.pthread_kill(player, signal.SIGINT)

    beside = threading.Thread(target=interrupt)
    beside.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in BlockingWorld(loop, cast(World, scripted)):
            pass
    beside.join()
    assert scripted.ended == 1


def test_an_iterator_that_is_kept_ends_with_its_world(loop: _Loop) -> None:
    scripted = Scripted(2)
    world = BlockingWorld(loop, cast(World, scripted))
    kept = iter(world)
    assert next(kept).index == 0
    loop.run(world._close())
    loop.stop()
    assert scripted.is_closed
    assert scripted.ended == 1
    with pytest.raises(RuntimeError, match="has ended"):
        next(kept)


def test_an_iterator_that_is_dropped_after_its_world_says_nothing(loop: _Loop) -> None:
    scripted = Scripted(2)
    world = BlockingWorld(loop, cast(World, scripted))
    kept = cast("Generator[Frame, None, None]", iter(world))
    next(kept)
    loop.run(world._close())
    loop.stop()
    kept.close()
    assert scripted.ended == 1
