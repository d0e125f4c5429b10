"""Who drives `road` while it is recorded."""

import math
from collections import deque

import numpy as np
from numpy.random import Generator

from aapt.shapes import FRAMES_PER_LATENT
from aapt.worlds.clips import FRAMES_PER_SECOND
from aapt.worlds.eyes import glance


class Driver:
    """Holds the road most of the time, and errs as a player will: it wanders, stops, and leaves the road."""

    def __init__(self, track: np.ndarray, random: Generator) -> None:
        self._track = track
        self._random = random
        self._mood = "drive"
        self._frames_left = 0
        self._keys = np.zeros(4, np.uint8)
        self._aim_m = 0.0
        self._cruise_mps = 10.0
        self._clumsiness = 0.0

    def keys(self, pose: np.ndarray) -> np.ndarray:
        """The keys held for the next frame, [4] uint8, given the car's pose."""
        if self._frames_left <= 0:
            self._change_mood(pose)
        self._frames_left -= 1
        if self._mood == "random":
            if self._random.random() < 0.12:
                self._keys = (self._random.random(4) < (0.35, 0.35, 0.6, 0.1)).astype(np.uint8)
            return self._keys
        if self._mood == "rest":
            return np.zeros(4, np.uint8)
        return self._follow(pose)

    def _change_mood(self, pose: np.ndarray) -> None:
        random = self._random
        lost = np.hypot(*(self._track - pose[:2]).T).min() > 15.0
        chances = (1.0, 0.0, 0.0) if lost else (0.76, 0.18, 0.06)
        self._mood = str(random.choice(("drive", "random", "rest"), p=chances))
        seconds = {
            "drive": random.uniform(2, 8),
            "random": random.uniform(0.5, 3),
            "rest": random.uniform(0.3, 2),
        }
        self._frames_left = int(seconds[self._mood] * FRAMES_PER_SECOND)
        self._aim_m = random.normal(0, 3.5)
        self._cruise_mps = random.uniform(5, 14)
        self._clumsiness = random.choice((0.0, 0.04, 0.12))

    def _follow(self, pose: np.ndarray) -> np.ndarray:
        x, y, heading, speed = (float(v) for v in pose)
        nearest = int(np.hypot(*(self._track - (x, y)).T).argmin())
        ahead = self._track[(nearest + 3 + int(speed / 9)) % len(self._track)]
        along = self._track[(nearest + 1) % len(self._track)] - self._track[nearest]
        along = along / (np.hypot(*along) + 1e-6)
        target = ahead + self._aim_m * np.array([along[1], -along[0]])
        wanted = math.atan2(-(target[0] - x), target[1] - y)
        error = (wanted - heading + math.pi) % (2 * math.pi) - math.pi
        keys = np.zeros(4, np.uint8)
        # Keys are all or nothing: tap in proportion to the error.
        if self._random.random() < min(1.0, abs(error) * 4.0):
            keys[0 if error > 0 else 1] = 1
        limit = self._cruise_mps * max(0.35, 1 - 0.7 * abs(error))
        keys[2] = speed < limit
        keys[3] = speed > 1.25 * limit + 2
        if self._random.random() < self._clumsiness:
            keys[:2] = self._random.permutation((0, 1))
        return keys


class DistractedDriver:
    """Looks away half of the time, and then presses what another driver pressed on another track.

    A world that is dreamt under keys which were meant for another soon leaves the road. These drives show
    what it should then look like, and how one comes back.
    """

    def __init__(self, driver: Driver, blind_keys: np.ndarray, random: Generator) -> None:
        self._driver = driver
        self._blind_keys = blind_keys
        self._random = random
        self._frame = 0
        self._frames_left = 0
        self._is_blind = True

    def keys(self, pose: np.ndarray) -> np.ndarray:
        """The keys held for the next frame, [4] uint8, given the car's pose."""
        if self._frames_left <= 0:
            self._is_blind = not self._is_blind
            self._frames_left = int(self._random.uniform(2, 10) * FRAMES_PER_SECOND)
        self._frames_left -= 1
        self._frame += 1
        seen = self._driver.keys(pose)
        blind: np.ndarray = self._blind_keys[self._frame % len(self._blind_keys)]
        return blind if self._is_blind else seen


class SightedDriver:
    """Sees the game's pictures and nothing else, and answers each four frames later, about as late as a
    player's hand."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._pressed = deque([np.zeros(len(keys), np.uint8)] * FRAMES_PER_LATENT)
        self._number = 0

    def look(self, picture: np.ndarray) -> tuple[np.ndarray, bool]:
        """What is held for the next frame, [k] uint8, and whether `picture` shows the car on the road."""
        self._number += 1
        seen = glance(picture, self._number)
        self._pressed.append(np.array([key in seen.keys for key in self._keys], np.uint8))
        self._pressed.popleft()
        return self._pressed[0], seen.is_on_road
