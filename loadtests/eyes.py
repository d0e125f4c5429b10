"""A driver that looks at the frames (`aapt.worlds.eyes`), as the player wants its drivers."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from aapt.worlds.eyes import glance


class Eyes:
    """Keeps the car on the grey."""

    def __init__(self) -> None:
        self._keys: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._down: tuple[str, ...] = ()
        self.on_road: list[bool] = []  # for each frame that was seen

    def look(self, picture: np.ndarray) -> None:
        """Take in a frame, [h, w, 3] uint8."""
        seen = glance(picture, len(self.on_road) + 1)
        self.on_road.append(seen.is_on_road)
        if seen.keys != self._down:
            self._down = seen.keys
            self._keys.put_nowait(self._down)

    async def play(self) -> AsyncIterator[tuple[str, ...]]:
        """The keys that are down, each time they change, for ever."""
        while True:
            yield await self._keys.get()
