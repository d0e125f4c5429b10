"""The recorders: resumable, reproducible, and steered by the keys that they write down."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from aapt.worlds.__main__ import main as record_command
from aapt.worlds.clips import Episode, episode_paths
from aapt.worlds.eyes import glance
from aapt.worlds.record import preview, record, record_one

SEED = 2  # even: not mirrored


def episode(caption: str = "nothing", frames: int = 3) -> Episode:
    picture = np.arange(frames * 8 * 8 * 3, dtype=np.uint8).reshape(frames, 8, 8, 3)
    keys = np.eye(frames, 4, dtype=np.uint8)
    return Episode(picture, keys, np.ones((frames, 4), np.float32), caption)


def test_an_episode_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = episode("a caption, with öä")
    written.save(tmp_path / "episode-00000.npz")
    (read,) = (Episode.load(path) for path in episode_paths(tmp_path))
    assert read.caption == written.caption
    for name in ("frames", "controls", "poses"):
        kept, made = getattr(read, name), getattr(written, name)
        assert kept.dtype == made.dtype
        np.testing.assert_array_equal(kept, made)


def test_a_recording_that_exists_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "episode-00004.npz"
    episode("already there").save(path)
    assert record_one("no_such_world", tmp_path, 1.0, {}, 4) == 0
    assert Episode.load(path).caption == "already there"


def test_recording_may_begin_at_any_number(tmp_path: Path) -> None:
    for number in (20, 21):
        episode("already there").save(tmp_path / f"episode-{number:05d}.npz")
    record("no_such_world", tmp_path, 2, 1.0, workers=1, first=20)
    with pytest.raises(ModuleNotFoundError, match="no_such_world"):
        record("no_such_world", tmp_path, 2, 1.0, workers=1, first=21)


def test_a_half_written_file_is_never_taken_for_an_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(file: object, **arrays: np.ndarray) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", power_cut)
        with pytest.raises(KeyboardInterrupt):
            episode().save(tmp_path / "episode-00000.npz")
    assert list(tmp_path.iterdir()), "the interrupted writer leaves its partial file"
    with pytest.raises(FileNotFoundError, match="record"):
        episode_paths(tmp_path)
    episode().save(tmp_path / "episode-00000.npz")
    assert len(episode_paths(tmp_path)) == 1


def test_a_folder_without_episodes_names_the_command_that_records(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m aapt\.worlds record"):
        episode_paths(tmp_path)


def test_the_preview_shows_one_row_for_each_episode(tmp_path: Path) -> None:
    for number in range(3):
        episode(frames=49).save(tmp_path / f"episode-{number:05d}.npz")
    preview(tmp_path, tmp_path / "preview.png", 2)
    with Image.open(tmp_path / "preview.png") as sheet:
        assert sheet.size == (3 * 8, 2 * 8)


@pytest.fixture
def road() -> ModuleType:
    pytest.importorskip("Box2D", reason="needs the games: pip install -e 'libs/aapt[worlds]'")
    return importlib.import_module("aapt.worlds.road")


@pytest.fixture
def maze() -> ModuleType:
    pytest.importorskip("vizdoom", reason="needs the games: pip install -e 'libs/aapt[worlds]'")
    return importlib.import_module("aapt.worlds.maze")


def test_the_same_seed_records_the_same_drive(road: ModuleType) -> None:
    first, second, other = road.play(SEED, 1.0), road.play(SEED, 1.0), road.play(SEED + 2, 1.0)
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.controls, second.controls)
    np.testing.assert_array_equal(first.poses, second.poses)
    assert first.caption == second.caption
    assert not np.array_equal(first.frames, other.frames)


def test_a_recording_has_one_row_of_keys_and_one_pose_for_each_frame(road: ModuleType) -> None:
    drove = road.play(SEED, 1.0)
    assert drove.frames.shape == (1 + road.FRAMES_PER_SECOND, road.HEIGHT_PX, road.WIDTH_PX, 3)
    assert drove.frames.dtype == np.uint8
    assert drove.controls.shape == (len(drove.frames), len(road.KEYS))
    assert len(drove.poses) == len(drove.frames)
    assert not drove.controls[0].any(), "nothing was held before the first frame"
    assert set(np.unique(drove.controls)) <= {0, 1}
    assert drove.caption in road.CAPTIONS


def test_a_distracted_driver_presses_for_a_time_what_another_pressed(road: ModuleType) -> None:
    keys = np.tile([[0, 0, 0, 1]], (24, 1)).astype(np.uint8)
    game = road.Road(SEED)
    watchful = road.Driver(game.track, np.random.default_rng(0))
    driver = road.DistractedDriver(watchful, keys, np.random.default_rng(1))
    braking = [bool(driver.keys(game.pose)[3]) for _ in range(40 * road.FRAMES_PER_SECOND)]
    changes = np.flatnonzero(np.diff(braking)) // road.FRAMES_PER_SECOND
    assert 0.3 < np.mean(braking) < 0.7
    assert 2 <= changes[0] <= 10, "it looks first"


def test_who_drives_by_sight_starts_as_others_do_and_mostly_holds_the_road(road: ModuleType) -> None:
    on_road = []
    for seed in (600, 601, 602):
        usual, sighted = road.play(seed, 1.0), road.play(seed, 8.0, driver="sighted")
        np.testing.assert_array_equal(usual.frames[0], sighted.frames[0])
        assert sighted.controls[:, :2].any()
        on_road += [glance(frame, 0).is_on_road for frame in sighted.frames[:: road.FRAMES_PER_SECOND]]
    assert np.mean(on_road) > 0.8


def test_one_driver_is_asked_for_at_a_time_and_of_the_road(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        ("road --by-sight --distracted", "not allowed with argument"),
        ("maze --by-sight", "maze has one driver; only road has a sighted one"),
    ):
        monkeypatch.setattr(sys, "argv", ["aapt.worlds", "record", *words.split(), "--out", "nowhere"])
        with pytest.raises(SystemExit):
            record_command()
        assert said in capsys.readouterr().err


def test_other_drives_stay_what_they_were(road: ModuleType) -> None:
    usual, distracted = road.play(SEED, 1.0), road.play(SEED, 1.0, driver="distracted")
    np.testing.assert_array_equal(usual.frames[0], distracted.frames[0])
    assert road.play(SEED, 1.0).caption == usual.caption


def test_a_mirror_swaps_left_and_right_and_nothing_else(road: ModuleType) -> None:
    drove = road.play(SEED, 1.0)
    mirrored = road.mirrored(drove)
    np.testing.assert_array_equal(mirrored.frames[0, :, 0], drove.frames[0, :, -1])
    np.testing.assert_array_equal(mirrored.controls[:, :2], drove.controls[:, 1::-1])
    np.testing.assert_array_equal(mirrored.controls[:, 2:], drove.controls[:, 2:])
    np.testing.assert_array_equal(road.mirrored(mirrored).frames, drove.frames)
    np.testing.assert_array_equal(road.mirrored(mirrored).poses, drove.poses)


@pytest.mark.parametrize(("key", "sign"), [("left", 1), ("right", -1)])
def test_the_arrow_keys_turn_the_car_their_way(road: ModuleType, key: str, sign: int) -> None:
    before, after = drive(road, {"up", key})
    heading = after[2] - before[2]  # anticlockwise is positive
    assert heading * sign > 0.1


def test_up_drives_and_down_brakes(road: ModuleType) -> None:
    assert drive(road, {"up"})[1][3] > 3.0
    coasting, braking = (drive(road, keys, 12.0, frames=4)[1][3] for keys in (set(), {"down"}))
    assert braking < coasting < 12.0


def test_half_a_second_of_keys_says_how_fast_the_car_is(road: ModuleType) -> None:
    slow, fast = (drive(road, {"up"}, speed_mps, frames=12)[1][3] for speed_mps in (0.0, 12.0))
    assert slow == pytest.approx(fast, abs=1.5)
    assert drive(road, set(), 12.0, frames=12)[1][3] == pytest.approx(0.0, abs=1.0)


def drive(
    road: ModuleType, keys: set[str], speed_mps: float = 0.0, frames: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    game = road.Road(SEED)
    game.place(0, 0.0, 0.0, speed_mps)
    before = game.pose
    held = np.array([key in keys for key in road.KEYS], np.uint8)
    for _ in range(frames):
        game.step(held)
    return before, game.pose


def test_the_same_seed_records_the_same_walk(maze: ModuleType) -> None:
    first, second = maze.play(1, 1.0), maze.play(1, 1.0)
    assert first.frames.shape == (1 + maze.FRAMES_PER_SECOND, maze.HEIGHT_PX, maze.WIDTH_PX, 3)
    assert first.controls.shape == (len(first.frames), len(maze.KEYS))
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.controls, second.controls)
    np.testing.assert_array_equal(first.poses, second.poses)


def test_recording_leaves_nothing_where_it_was_started(
    maze: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    maze.play(1, 0.1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("key", "sign"), [("left", 1), ("right", -1)])
def test_the_arrow_keys_turn_the_player_their_way(maze: ModuleType, key: str, sign: int) -> None:
    before, after = walk(maze, key)
    turned_deg = (after[3] - before[3] + 180) % 360 - 180
    assert turned_deg * sign == pytest.approx(35, abs=0.1)


@pytest.mark.parametrize(
    ("key", "direction_deg"), [("up", 0), ("down", 180), ("strafe_left", 90), ("strafe_right", -90)]
)
def test_the_player_moves_where_the_key_says(maze: ModuleType, key: str, direction_deg: float) -> None:
    before, after = walk(maze, key)
    moved = after[:2] - before[:2]
    assert np.hypot(*moved) > 5
    heading_deg = np.degrees(np.arctan2(moved[1], moved[0])) - before[3]
    assert (heading_deg - direction_deg + 180) % 360 - 180 == pytest.approx(0, abs=10)


def walk(maze: ModuleType, key: str) -> tuple[np.ndarray, np.ndarray]:
    held = np.array([key == name for name in maze.KEYS], np.uint8)
    with maze.Maze(2) as game:
        before = game.pose
        for _ in range(10):
            game.step(held)
        return before, game.pose
