"""`play`: a world without asyncio, for whoever has a plain loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from livevideo.v1.frame_pb2 import Frame
from livevideo.v1.session_pb2 import Model, Notice
from livevideo_client.access import Services
from livevideo_client.client import Client
from livevideo_client.steering import Control
from livevideo_client.world import World

Answer = TypeVar("Answer")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="livevideo", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return self._loop.is_closed()

    def run(self, part: Coroutine[Any, Any, Answer]) -> Answer:
        """What it returns or raises, when it is done. Whoever is interrupted meanwhile interrupts it.

        Raises RuntimeError after `stop`, and where it would wait for itself.
        """
        if self.is_over or threading.current_thread() is self._thread:
            part.close()
            if self.is_over:
                raise RuntimeError("the block of play() has ended; play another world")
            raise RuntimeError("a callback cannot wait for the world that calls it; act in the loop instead")
        running = asyncio.run_coroutine_threadsafe(part, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def stop(self) -> None:
        self.run(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


class _Following:
    """Frames that a plain loop takes, one after the other."""

    def __init__(self, frames: AsyncGenerator[Frame, None]) -> None:
        self._frames = frames
        self._taking = asyncio.Lock()  # who was interrupted may still be at it
        self._taker: asyncio.Task[Any] | None = None

    async def next(self) -> Frame | None:
        async with self._taking:
            self._taker = asyncio.current_task()
            try:
                return await anext(self._frames, None)
            finally:
                self._taker = None

    async def leave(self) -> None:
        """Nobody waits for a frame any more, also where an interrupt came before that could be told."""
        if self._taker is not None and not self._taker.cancelling():
            self._taker.cancel()
        await self.end()

    async def end(self) -> None:
        """Once the frame has come that is waited for."""
        async with self._taking:
            await self._frames.aclose()


class BlockingWorld:
    """A `World` whose calls return when they are done. Iterate over it for its frames."""

    def __init__(self, loop: _Loop, world: World) -> None:
        self._loop = loop
        self._world = world
        self._followings: set[_Following] = set()

    @property
    def model(self) -> Model:
        """The picture's size and pace, and the names of the keys."""
        return self._world.model

    @property
    def notice(self) -> Notice | None:
        """That the session will be ended, and when, where that is known."""
        return self._world.notice

    @property
    def comebacks(self) -> int:
        """How often a service was lost and another one, or the same one again, went on."""
        return self._world.comebacks

    def __iter__(self) -> Iterator[Frame]:
        """As `World.frames`: a frame counts as shown when the next one is asked for."""
        following = _Following(self._world.frames())
        self._followings.add(following)
        try:
            while (frame := self._loop.run(following.next())) is not None:
                yield frame
        finally:
            if not self._loop.is_over:
                self._followings.discard(following)
                self._loop.run(following.leave())

    def hold(self, *keys: str) -> Control:
        """These keys are down from now on, and no others."""
        return self._done(lambda: self._world.hold(*keys))

    def look(self, yaw_rad: float, pitch_rad: float = 0.0) -> Control:
        """Turns the view to the right and upwards."""
        return self._done(lambda: self._world.look(yaw_rad, pitch_rad))

    def camera(self, position_m: Sequence[float], rotation: Sequence[float], fov_rad: float = 0.0) -> Control:
        """Where the camera is, as `World.camera`."""
        return self._done(lambda: self._world.camera(position_m, rotation, fov_rad))

    def body(self, joints: Sequence[float]) -> Control:
        """Where the joints are in the picture, as `World.body`."""
        return self._done(lambda: self._world.body(joints))

    def prompt(self, text: str) -> Control:
        """What the world should look like from the next tick on."""
        return self._done(lambda: self._world.prompt(text))

    def accepted(self, control: Control) -> None:
        """Returns once it is stored. Raises ControlRefused, or what ended the session."""
        self._loop.run(control.accepted())

    def obeyed(self, control: Control) -> int:
        """The index of the first frame that obeys it, once it is known: frames must be taken meanwhile, or
        before. Raises as `accepted` does."""
        return self._loop.run(control.obeyed())

    async def _close(self) -> None:
        """With the iterators that somebody still has."""
        await self._world.close()
        for following in [*self._followings]:
            await following.end()

    def _done(self, what: Callable[[], Control]) -> Control:
        async def done() -> Control:
            return what()

        return self._loop.run(done())


@contextmanager
def play(
    services: Services | str,
    *,
    key: str = "",
    ca_file: Path | str | None = None,
    waits: bool = False,
    **wanted: Any,
) -> Iterator[BlockingWorld]:
    """A world of one's own for the block. waits: in the queue, where there is no seat.

    wanted: as `Client.open`: model, seed, prompt, picture, picture_format. Raises Refused and ValueError.
    """
    loop = _Loop()

    async def connected() -> Client:
        return Client(services, key=key, ca_file=ca_file)

    try:
        client = loop.run(connected())
        try:
            entered = loop.run(client.wait(**wanted) if waits else client.open(**wanted))
            world = BlockingWorld(loop, entered)
            try:
                yield world
            finally:
                loop.run(world._close())
        finally:
            loop.run(client.close())
    finally:
        loop.stop()
