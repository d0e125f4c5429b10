"""A driver that looks: keys from what the frames show, as a person would press them."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

AHEAD = (0.3, 0.55)  # of the picture's height: where the road is looked for, a car's length ahead
BELOW = (0.55, 0.7)  # in front of the bonnet: grey here means that the car is on the road
GREY_RANGE = 40  # most difference between the colours of something grey
DARK, BRIGHT = 70, 150  # of the road, between grass shadows and dashes
TURN_PX, SLOW_PX = 4.0, 22.0  # for a picture 128 wide: steer, and take the foot off, beyond these
FEWEST = 12  # pixels that make a road


class Eyes:
    """Keeps the car on the grey: steers to where the road is ahead, and lets go of the gas before bends."""

    def __init__(self) -> None:
        self._keys: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()
        self._down: tuple[str, ...] = ()
        self.on_road: list[bool] = []  # for each frame that was seen

    def look(self, picture: np.ndarray) -> None:
        """Take in a frame, [h, w, 3] uint8."""
        width = picture.shape[1]
        road = _is_road(picture)
        middle = slice(width // 2 - width // 20, width // 2 + width // 20)
        self.on_road.append(bool(_rows(road, BELOW)[:, middle].mean() > 0.5))
        columns = np.nonzero(_rows(road, AHEAD))[1]
        if len(columns) < FEWEST:
            columns = np.nonzero(road)[1]
        aside = 0.0 if len(columns) < FEWEST else (float(columns.mean()) - (width - 1) / 2) * 128 / width
        down = [] if abs(aside) > SLOW_PX and len(self.on_road) % 2 else ["up"]
        if abs(aside) > TURN_PX:
            down.append("left" if aside < 0 else "right")
        if tuple(down) != self._down:
            self._down = tuple(down)
            self._keys.put_nowait(self._down)

    async def play(self) -> AsyncIterator[tuple[str, ...]]:
        """The keys that are down, each time they change, for ever."""
        while True:
            yield await self._keys.get()


def _rows(picture: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    start, stop = (round(share * len(picture)) for share in between)
    return picture[start:stop]


def _is_road(picture: np.ndarray) -> np.ndarray:
    values = picture.astype(np.int16)
    darkest, brightest = values.min(-1), values.max(-1)
    is_road: np.ndarray = (brightest - darkest < GREY_RANGE) & (darkest > DARK) & (brightest < BRIGHT)
    return is_road
