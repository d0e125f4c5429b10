"""`play`: a world without asyncio, for whoever has a plain loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
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

    def run(self, part: Coroutine[Any, Any, Answer]) -> Answer:
        """What it returns or raises, when it is done. Whoever is interrupted meanwhile interrupts it."""
        running = asyncio.run_coroutine_threadsafe(part, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingWorld:
    """A `World` whose calls return when they are done. Iterate over it for its frames."""

    def __init__(self, loop: _Loop, world: World) -> None:
        self._loop = loop
        self._world = world

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
        frames = self._world.frames()

        async def following() -> Frame | None:
            return await anext(frames, None)

        try:
            while (frame := self._loop.run(following())) is not None:
                yield frame
        finally:
            self._loop.run(frames.aclose())

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
            world = loop.run(client.wait(**wanted) if waits else client.open(**wanted))
            try:
                yield BlockingWorld(loop, world)
            finally:
                loop.run(world.close())
        finally:
            loop.run(client.close())
    finally:
        loop.stop()
