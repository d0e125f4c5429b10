"""A driver that looks: keys from what a frame shows, as a person would press them."""

from dataclasses import dataclass

import numpy as np

KNOWN = ("road", "debug")  # presets whose roads it knows; the one for tests has none
AHEAD = (0.3, 0.55)  # of the picture's height: where the road is looked for, a car's length ahead
BELOW = (0.55, 0.7)  # in front of the bonnet: grey here means that the car is on the road
GREY_RANGE = 40  # most difference between the colours of something grey
DARK, BRIGHT = 70, 150  # of the road, between grass shadows and dashes
TURN_PX, SLOW_PX = 4.0, 22.0  # for a picture 128 wide: steer, and take the foot off, beyond these
FEWEST = 12  # pixels that make a road


@dataclass(frozen=True)
class Glance:
    """What one frame made of the driver: the keys it holds now, and whether it saw itself on the road."""

    keys: tuple[str, ...]
    is_on_road: bool


def glance(picture: np.ndarray, number: int) -> Glance:
    """Look at frame `number`, [h, w, 3] uint8: steer to where the road is ahead, off the gas before bends."""
    width = picture.shape[1]
    road = _is_road(picture)
    middle = slice(width // 2 - width // 20, width // 2 + width // 20)
    is_on_road = bool(_rows(road, BELOW)[:, middle].mean() > 0.5)
    columns = np.nonzero(_rows(road, AHEAD))[1]
    if len(columns) < FEWEST:
        columns = np.nonzero(road)[1]
    aside = 0.0 if len(columns) < FEWEST else (float(columns.mean()) - (width - 1) / 2) * 128 / width
    keys = [] if abs(aside) > SLOW_PX and number % 2 else ["up"]
    if abs(aside) > TURN_PX:
        keys.append("left" if aside < 0 else "right")
    return Glance(tuple(keys), is_on_road)


def _rows(picture: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    start, stop = (round(share * len(picture)) for share in between)
    return picture[start:stop]


def _is_road(picture: np.ndarray) -> np.ndarray:
    values = picture.astype(np.int16)
    darkest, brightest = values.min(-1), values.max(-1)
    is_road: np.ndarray = (brightest - darkest < GREY_RANGE) & (darkest > DARK) & (brightest < BRIGHT)
    return is_road
