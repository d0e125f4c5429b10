"""`road`: Gymnasium's CarRacing, steered by four keys, seen from above at 24 frames/s.

The game's own physics and tracks; the camera, the pace and the paint are ours. The picture is drawn straight
at the size that is recorded (twice as large, then averaged), zoomed so that a car is a dozen pixels long. The
engine is tamed so that a person can hold the road with arrow keys, and so that half a second of keys says how
fast the car is. The road has a dashed middle line and the grass is mown in strong squares: a network that no
longer sees how fast it goes stands still.
"""

import math
import os
from collections.abc import Callable

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import numpy as np
import pygame
from gymnasium.envs.box2d import car_racing
from gymnasium.envs.box2d.car_dynamics import Car

from aapt.worlds.clips import FRAMES_PER_SECOND, Episode
from aapt.worlds.drivers import DistractedDriver, Driver, SightedDriver

KEYS = ("left", "right", "up", "down")
RIGHT_FOR_LEFT = [KEYS.index(key) for key in ("right", "left", "up", "down")]
OTHER_TRACKS = 1_000_000  # from the seed of a drive to that of the track whose keys it borrows
WIDTH_PX, HEIGHT_PX = 128, 80
VIEW_WIDTH_M = 44.0  # what the camera sees from edge to edge, in the game's metres
CAR_HEIGHT_IN_VIEW = 0.72  # where the car stands, from the top
# No more gas above this: a latent then moves the picture by less than one of its own cells.
CRUISE_SPEED_MPS = 9.0
STEERING_RAD = 0.27  # of the front wheels while a key is held: a turn of ten metres
COAST_BRAKE = 0.1  # while no key is held; the game itself would coast for ever
DASH_M, GAP_M, DASH_WIDTH_M = 3.0, 5.0, 0.8
DASH_COLOUR = (240, 240, 230)
GRASS_COLOUR, MOWN_COLOUR = (92, 184, 92), (120, 226, 104)
SUPERSAMPLING = 2
PHYSICS_STEPS_PER_FRAME = 2
CAPTIONS = (
    "a red car on a grey road",
    "a red racing car drives on a grey road through green grass",
    "top view of a car on a race track",
    "a race track seen from above",
)


class Road:
    """One game. `step` takes the keys that are held and returns nothing; `picture` draws what is so."""

    def __init__(self, seed: int) -> None:
        car_racing.FPS = FRAMES_PER_SECOND * PHYSICS_STEPS_PER_FRAME
        self._game = _Game(render_mode=None)
        self._game.reset(seed=seed)
        scale = SUPERSAMPLING * WIDTH_PX / VIEW_WIDTH_M
        self._scale_px_per_m = scale
        self._surface = pygame.Surface((SUPERSAMPLING * WIDTH_PX, SUPERSAMPLING * HEIGHT_PX))
        self._road = [
            (np.array(poly), tuple(int(c) for c in colour)) for poly, colour in self._game.road_poly
        ]
        self._road += [(dash, DASH_COLOUR) for dash in _dashes(self.track)]
        self._road_middles = np.array([poly.mean(0) for poly, _ in self._road])
        self._grass = _grass_squares()
        self._grass_middles = self._grass.mean(1)

    @property
    def track(self) -> np.ndarray:
        """Centre line, [n, 2] metres, in driving order."""
        return np.array([(x, y) for _, _, x, y in self._game.track])

    @property
    def pose(self) -> np.ndarray:
        """x, y in metres, heading in radians (0 looks along +y), forward speed in m/s."""
        hull = self._game.player.hull
        forward = hull.GetWorldVector((0, 1))
        speed = forward[0] * hull.linearVelocity[0] + forward[1] * hull.linearVelocity[1]
        return np.array([hull.position[0], hull.position[1], hull.angle, speed], np.float32)

    def place(self, tile: int, offset_m: float, turn_rad: float, speed_mps: float) -> None:
        """Put the car on tile `tile` of the track, `offset_m` to its side, turned by `turn_rad`."""
        _, beta, x, y = self._game.track[tile % len(self._game.track)]
        self._game.player.destroy()
        heading = beta + turn_rad
        x_m, y_m = x + offset_m * math.cos(beta), y + offset_m * math.sin(beta)
        self._game.car = Car(self._game.world, heading, x_m, y_m)
        velocity = (-math.sin(heading) * speed_mps, math.cos(heading) * speed_mps)
        for body in (self._game.player.hull, *self._game.player.wheels):
            body.linearVelocity = velocity
        for wheel in self._game.player.wheels:
            wheel.omega = speed_mps / wheel.wheel_rad

    def pave(self) -> None:
        """Keep road under all wheels from now on, wherever the car goes: on grass it slides."""
        for wheel in self._game.player.wheels:
            wheel.tiles.add(_Paving())

    def step(self, keys: np.ndarray) -> None:
        """Advance one video frame with `keys` ([4] of 0 or 1, in the order of `KEYS`) held."""
        left, right, up, down = (bool(k) for k in keys)
        gas = 0.35 if up and self.pose[3] < CRUISE_SPEED_MPS else 0.0
        brake = 0.35 if down else (0.0 if up else COAST_BRAKE)
        for _ in range(PHYSICS_STEPS_PER_FRAME):
            self._game.drive(STEERING_RAD * (int(left) - int(right)), gas, brake)

    def picture(self) -> np.ndarray:
        """The frame, [80, 128, 3] uint8."""
        x, y, heading, _ = (float(v) for v in self.pose)
        scale, (width, height) = self._scale_px_per_m, self._surface.get_size()
        cos, sin = math.cos(-heading), math.sin(-heading)
        turn = np.array([[cos, -sin], [sin, cos]])
        middle = np.array([width / 2, height * CAR_HEIGHT_IN_VIEW])

        def to_pixels(points: np.ndarray) -> np.ndarray:
            pixels: np.ndarray = (points - (x, y)) @ turn.T * scale
            upright: np.ndarray = np.stack([pixels[..., 0], -pixels[..., 1]], -1) + middle
            return upright

        self._surface.fill(GRASS_COLOUR)
        reach = VIEW_WIDTH_M * 1.2
        near = np.abs(self._grass_middles - (x, y)).max(-1) < reach + 12
        for square in to_pixels(self._grass[near]):
            pygame.draw.polygon(self._surface, MOWN_COLOUR, square.tolist())
        near = np.abs(self._road_middles - (x, y)).max(-1) < reach
        for i in np.flatnonzero(near):
            poly, colour = self._road[i]
            pygame.draw.polygon(self._surface, colour, to_pixels(poly).tolist())
        # The game turns its own coordinates; hand it the same camera.
        shift = np.array([-x * cos + y * sin, -x * sin - y * cos]) * scale
        flipped = pygame.transform.flip(self._surface, False, True)
        shift += (middle[0], height - middle[1])
        self._game.player.draw(flipped, scale, tuple(shift.tolist()), -heading, True)
        upright = pygame.transform.flip(flipped, False, True)
        small = pygame.transform.smoothscale(upright, (WIDTH_PX, HEIGHT_PX))
        columns: np.ndarray = pygame.surfarray.array3d(small)
        return np.ascontiguousarray(columns.transpose(1, 0, 2))


class _Paving:
    """A tile that is everywhere."""

    road_friction = 1.0


class _Game(car_racing.CarRacing):
    """CarRacing without its own camera: `step` of the game draws a picture that nobody looks at."""

    def _render(self, mode: str) -> None:
        return None

    @property
    def player(self) -> Car:
        assert self.car is not None, "`reset` makes the car"
        return self.car

    def drive(self, steer: float, gas: float, brake: float) -> None:
        self.player.steer(steer)
        self.player.gas(gas)
        self.player.brake(brake)
        self.player.step(1.0 / car_racing.FPS)
        self.world.Step(1.0 / car_racing.FPS, 6 * 30, 2 * 30)


def _grass_squares() -> np.ndarray:
    dim = car_racing.GRASS_DIM
    corners = np.array([(1, 0), (0, 0), (0, 1), (1, 1)])
    cells = [(x, y) for x in range(-20, 20, 2) for y in range(-20, 20, 2)]
    return np.array([(corners + cell) * dim for cell in cells])


def _dashes(track: np.ndarray) -> list[np.ndarray]:
    """The corners of every dash of the middle line, each [4, 2] metres."""
    closed = np.concatenate([track, track[:1]])
    walked_m = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])

    def at(distance_m: float) -> np.ndarray:
        return np.array([np.interp(distance_m, walked_m, closed[:, axis]) for axis in (0, 1)])

    dashes = []
    for start_m in np.arange(0.0, walked_m[-1] - DASH_M, DASH_M + GAP_M):
        begin, end = at(start_m), at(start_m + DASH_M)
        along = (end - begin) / (np.hypot(*(end - begin)) + 1e-9)
        side = np.array([along[1], -along[0]]) * DASH_WIDTH_M / 2
        dashes.append(np.stack([begin - side, begin + side, end + side, end - side]))
    return dashes


def play(seed: int, seconds: float, *, driver: str = "watchful") -> Episode:
    """Record one drive on the track that belongs to `seed`.

    Half of the drives begin at rest on the start line, the others anywhere on the track and already moving.
    The game runs its tracks anticlockwise; every other drive is mirrored, so that both turns are as common.

    driver: "watchful" sees the track and errs; "distracted" presses half of the time what was meant for
      another track; "sighted" sees the pictures alone, as `Watcher` does in a dream.
    """
    random = np.random.default_rng(seed)
    road = Road(seed)
    if random.random() < 0.5:
        road.place(
            int(random.integers(10_000)), random.normal(0, 3), random.normal(0, 0.25), random.uniform(0, 12)
        )
    keys_after = _driver(driver, road, seed, seconds, random)
    frames, keys, poses = [road.picture()], [np.zeros(4, np.uint8)], [road.pose]
    for _ in range(int(seconds * FRAMES_PER_SECOND)):
        held = keys_after(frames[-1])
        road.step(held)
        frames.append(road.picture())
        keys.append(held)
        poses.append(road.pose)
    episode = Episode(np.stack(frames), np.stack(keys), np.stack(poses), str(random.choice(CAPTIONS)))
    return mirrored(episode) if seed % 2 else episode


def _driver(
    name: str, road: Road, seed: int, seconds: float, random: np.random.Generator
) -> Callable[[np.ndarray], np.ndarray]:
    """What it holds for the next frame, given the last."""
    if name == "sighted":
        sighted = SightedDriver(KEYS)
        return lambda picture: sighted.look(picture)[0]
    watchful = Driver(road.track, random)
    if name == "watchful":
        return lambda _: watchful.keys(road.pose)
    distracted = DistractedDriver(watchful, _keys_of_another(seed, seconds), random)
    return lambda _: distracted.keys(road.pose)


def _keys_of_another(seed: int, seconds: float) -> np.ndarray:
    """What a driver presses on another track, [f, 4]; half of them as in a mirror."""
    road = Road(seed + OTHER_TRACKS)
    driver = Driver(road.track, np.random.default_rng(seed + OTHER_TRACKS))
    keys = []
    for _ in range(int(seconds * FRAMES_PER_SECOND)):
        keys.append(driver.keys(road.pose))
        road.step(keys[-1])
    pressed = np.stack(keys)
    return pressed[:, RIGHT_FOR_LEFT] if seed // 2 % 2 else pressed


def mirrored(episode: Episode) -> Episode:
    """The same drive seen in a mirror: picture, left and right keys, and pose."""
    return Episode(
        np.ascontiguousarray(episode.frames[:, :, ::-1]),
        episode.controls[:, RIGHT_FOR_LEFT],
        episode.poses * np.array([-1, 1, -1, 1], np.float32),
        episode.caption,
    )
