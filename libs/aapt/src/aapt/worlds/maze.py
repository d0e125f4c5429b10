"""`maze`: ViZDoom's `my_way_home`, nine rooms seen through the player's eyes at 24 frames/s.

One tic of the engine is one video frame, so the game runs at 0.69 of Doom's own pace; longer moves make up
for it. The picture is drawn twice as large and averaged: far easier to learn than single pixels of textures.
"""

import contextlib
import tempfile
from types import TracebackType

import numpy as np
from numpy.random import Generator

from aapt.worlds.clips import Episode

try:
    import vizdoom
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "the world `maze` needs ViZDoom, which is not installed; run: pip install -e 'libs/aapt[worlds]'",
        name=missing.name,
    ) from missing

KEYS = ("left", "right", "up", "down", "strafe_left", "strafe_right")
LEFT, RIGHT, UP, DOWN, STRAFE_LEFT, STRAFE_RIGHT = range(len(KEYS))
FRAMES_PER_SECOND = 24
WIDTH_PX, HEIGHT_PX = 160, 96
SUPERSAMPLING = 2
TURN_PER_FRAME_DEG = 3.5
FORWARD_THRUST, STRAFE_THRUST = 18, 14  # the engine's units: at most 5.9 map units a frame
GAMMA = 0.75  # the rooms are dark
CAPTIONS = (
    "walking through a maze",
    "a maze of rooms and corridors seen through the eyes of the player",
    "a first person view of rooms with bright walls",
    "rooms of brick, metal and leaves",
)


class Maze:
    """One game, from the place that belongs to `seed`; the engine is a process, so use it in a `with`.

    `step` takes the keys that are held; `picture`, `depth` and `pose` are what is so after it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._game = vizdoom.DoomGame()
        self._brightness = (255 * (np.arange(256) / 255) ** GAMMA).round().astype(np.float32)

    def __enter__(self) -> "Maze":
        game = self._game
        game.load_config(f"{vizdoom.scenarios_path}/my_way_home.cfg")
        # The easiest skill: there is nobody to fight, and the hardest refuses the command below.
        game.set_doom_skill(1)
        game.set_episode_timeout(0)
        game.set_seed(self._seed)
        game.set_mode(vizdoom.Mode.PLAYER)
        self._set_screen()
        button, variable = vizdoom.Button, vizdoom.GameVariable
        game.set_available_buttons(
            [button.TURN_LEFT_RIGHT_DELTA, button.MOVE_FORWARD_BACKWARD_DELTA, button.MOVE_LEFT_RIGHT_DELTA]
        )
        game.set_available_game_variables(
            [variable.POSITION_X, variable.POSITION_Y, variable.POSITION_Z, variable.ANGLE]
        )
        # The engine leaves its settings and an empty folder wherever it starts.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            game.set_doom_config_path(f"{folder}/engine.ini")
            game.init()
        # The vest that is the goal would end the game; nobody in better armour picks it up.
        game.send_game_command("give BlueArmor")
        self.step(np.zeros(len(KEYS), np.uint8))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._game.close()

    def _set_screen(self) -> None:
        game = self._game
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X200)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        game.set_depth_buffer_enabled(True)
        game.set_window_visible(False)
        game.set_render_hud(False)
        game.set_render_weapon(False)
        game.set_render_crosshair(False)
        game.set_render_messages(False)
        game.set_render_screen_flashes(False)

    def step(self, keys: np.ndarray) -> None:
        """Advance one video frame with `keys` ([6] of 0 or 1, in the order of `KEYS`) held."""
        left, right, up, down, strafe_left, strafe_right = (int(k) for k in keys)
        self._game.make_action(
            [
                TURN_PER_FRAME_DEG * (right - left),
                FORWARD_THRUST * (up - down),
                STRAFE_THRUST * (strafe_right - strafe_left),
            ]
        )

    def picture(self) -> np.ndarray:
        """The frame, [96, 160, 3] uint8."""
        drawn = self._brightness[self._state().screen_buffer]
        small: np.ndarray = drawn.reshape(-1, SUPERSAMPLING, WIDTH_PX, SUPERSAMPLING, 3).mean((1, 3))
        top = (len(small) - HEIGHT_PX) // 2
        return small[top : top + HEIGHT_PX].round().astype(np.uint8)

    @property
    def pose(self) -> np.ndarray:
        """x, y, z in map units, heading in degrees (0 looks along +x, anticlockwise)."""
        return np.array(self._state().game_variables, np.float32)

    @property
    def depth(self) -> np.ndarray:
        """How far the walls are at eye level, from left to right, [5]; the engine's units, at most 255."""
        buffer = self._state().depth_buffer
        assert buffer is not None
        middle = len(buffer) // 2
        band = buffer[middle - 8 : middle + 8].min(0)
        return np.array([np.median(part) for part in np.split(band, 5)])

    def _state(self) -> vizdoom.GameState:
        state = self._game.get_state()
        assert state is not None, "the game has ended"
        return state


class Driver:
    """Walks where there is room, most of the time; errs as a player will: it stops, and runs into walls."""

    def __init__(self, random: Generator) -> None:
        self._random = random
        self._mood = "walk"
        self._frames_left = 0
        self._keys = np.zeros(len(KEYS), np.uint8)
        self._side = LEFT
        self._is_turning = False
        self._near = 8.0

    def keys(self, depth: np.ndarray) -> np.ndarray:
        """The keys held for the next frame, [6] uint8, given what `Maze.depth` says."""
        if self._frames_left <= 0:
            self._change_mood()
        self._frames_left -= 1
        if self._mood == "walk":
            self._keys = self._walk(depth)
        elif self._mood == "random" and self._random.random() < 0.1:
            self._keys = (self._random.random(len(KEYS)) < (0.3, 0.3, 0.5, 0.2, 0.2, 0.2)).astype(np.uint8)
        return self._keys.copy()

    def _change_mood(self) -> None:
        random = self._random
        self._mood = str(
            random.choice(("walk", "random", "turn", "strafe", "rest"), p=(0.66, 0.12, 0.1, 0.07, 0.05))
        )
        longest_s = {"walk": 6.0, "random": 2.0, "turn": 2.0, "strafe": 1.2, "rest": 1.0}[self._mood]
        self._frames_left = int(random.uniform(0.3, longest_s) * FRAMES_PER_SECOND)
        self._near = random.uniform(4, 10)
        self._side = int(random.choice((LEFT, RIGHT)))
        self._keys = np.zeros(len(KEYS), np.uint8)
        if self._mood == "turn":
            self._keys[self._side] = 1
        elif self._mood == "strafe":
            self._keys[random.choice((STRAFE_LEFT, STRAFE_RIGHT))] = 1
            self._keys[UP] = random.random() < 0.5

    def _walk(self, depth: np.ndarray) -> np.ndarray:
        keys = np.zeros(len(KEYS), np.uint8)
        left, ahead, right = depth[:2].max(), depth[2], depth[3:].max()
        # A turn that has begun goes on until there is plenty of room, the same way round: who decides anew at
        # every frame dithers in a corner.
        self._is_turning = ahead < self._near * (3 if self._is_turning else 1)
        if self._is_turning:
            keys[self._side] = 1
            keys[UP] = ahead > 2 * self._near
            return keys
        keys[UP] = 1
        self._side = LEFT if left > right else RIGHT
        # Step off a door post that is in the way.
        if min(depth[1], depth[3]) < self._near / 2:
            keys[STRAFE_RIGHT if depth[1] < depth[3] else STRAFE_LEFT] = 1
            return keys
        # Keys are all or nothing: tap towards the deeper side now and then.
        if max(left, right) > ahead and self._random.random() < 0.5:
            keys[self._side] = 1
        return keys


def play(seed: int, seconds: float) -> Episode:
    """Record one walk from the place that belongs to `seed`."""
    random = np.random.default_rng(seed)
    driver = Driver(random)
    with Maze(seed) as maze:
        frames, keys, poses = [maze.picture()], [np.zeros(len(KEYS), np.uint8)], [maze.pose]
        for _ in range(int(seconds * FRAMES_PER_SECOND)):
            held = driver.keys(maze.depth)
            maze.step(held)
            frames.append(maze.picture())
            keys.append(held)
            poses.append(maze.pose)
    return Episode(np.stack(frames), np.stack(keys), np.stack(poses), str(random.choice(CAPTIONS)))
