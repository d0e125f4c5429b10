"""The driver that looks: where the road is, it steers."""

import asyncio

import numpy as np
import pytest

from loadtests.eyes import Eyes

GRASS, ROAD, DASH = (92, 184, 92), (104, 104, 104), (240, 240, 230)


def picture(road_from: int, road_to: int) -> np.ndarray:
    frame = np.full((80, 128, 3), GRASS, np.uint8)
    frame[:, road_from:road_to] = ROAD
    frame[10:20, (road_from + road_to) // 2] = DASH
    return frame


@pytest.mark.parametrize(
    ("road", "keys", "is_on_road"),
    [
        ((44, 84), ("up",), True),
        ((34, 74), ("up", "left"), True),
        ((58, 98), ("up", "right"), True),
        ((80, 120), ("right",), False),
        ((0, 0), ("up",), False),
    ],
)
async def test_it_steers_to_the_road_and_slows_where_it_is_far(
    road: tuple[int, int], keys: tuple[str, ...], is_on_road: bool
) -> None:
    eyes = Eyes()
    eyes.look(picture(*road))
    pressed = await asyncio.wait_for(anext(aiter(eyes.play())), 10)
    assert pressed == keys
    assert eyes.on_road == [is_on_road]
