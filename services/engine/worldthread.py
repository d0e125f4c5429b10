"""`WorldThread`: the world's own thread, in which it is called, and whether memory suffices for that."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from torch import Tensor

from services import memory, telemetry
from services.engine.mailbox import Turn
from services.engine.world import World
from services.errors import OutOfMemory

log = telemetry.logger("engine")
T = TypeVar("T")

RETRY_AFTER_S = 5.0


class WorldThread:
    """One call after the other, so the event loop never waits for the world."""

    def __init__(
        self,
        world: World,
        executor: Executor,
        *,
        session_bytes: int,
        available_bytes: Callable[[], int | None],
    ) -> None:
        """executor: of one thread. session_bytes: left for one more session, or nobody is let in."""
        self._world = world
        self._executor = executor
        self._session_bytes = session_bytes
        self._available_bytes = available_bytes
        self.shortage: str | None = None  # why no slot could be had, where the last try found no memory

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; OutOfMemory where memory did not suffice."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            log.exception("out of memory", error)
            self.shortage = "no memory was left for another session"
            raise OutOfMemory(f"{self.shortage}; try again", retry_after_s=RETRY_AFTER_S) from error

    async def turned(self, due: Mapping[int, tuple[Turn, Tensor]]) -> dict[int, Tensor]:
        """One latent more for each slot. Raises OutOfMemory."""
        return await self.call(partial(self.turn, due))

    def turn(self, due: Mapping[int, tuple[Turn, Tensor]]) -> dict[int, Tensor]:
        """In this thread: one latent more for each slot, under its turn and what that steers."""
        for slot, (turn, _) in due.items():
            if turn.prompt is not None:
                self._world.set_prompt(slot, turn.prompt)
        return self._world.step({slot: controls for slot, (_, controls) in due.items()})

    def check_memory(self) -> None:
        """Raises OutOfMemory where another session should not be let in."""
        left = self._available_bytes()
        if left is not None and left < self._session_bytes:
            self.shortage = f"a session takes {self._session_bytes} bytes of memory, and {left} are left"
            raise OutOfMemory(f"{self.shortage}; try again", retry_after_s=RETRY_AFTER_S)

    async def probe(self, slot: int) -> None:
        """Whether a slot can be had again, after one could not: tried on a free one, which stays free.

        What came out is in `shortage`.
        """
        try:
            self.check_memory()
            await self.call(lambda: self._world.open(slot, None, "", 0))
        except OutOfMemory:
            pass
        except Exception as error:
            log.exception("probe failed", error)
        else:
            self.shortage = None
        finally:
            self.close(slot)

    def close(self, slot: int) -> None:
        """Free the slot after all that was asked for before, and before all that will be."""
        self._executor.submit(self._close, slot)

    async def stop(self) -> None:
        """Let what was asked for be done, then end the thread."""
        await self.call(lambda: None)
        self._executor.shutdown(wait=False)

    def _close(self, slot: int) -> None:
        try:
            self._world.close(slot)
        except Exception as error:
            log.exception("slot not closed", error, slot=slot)
