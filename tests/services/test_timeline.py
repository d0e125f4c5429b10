"""When frames came, against when they were due."""

import numpy as np
import pytest

from loadtests.measured import Seen, summed
from loadtests.timeline import Pace, Timeline, percentiles

PERIOD_S = 0.04


def seen(late_s: dict[int, float], frames: int = 200) -> Timeline:
    """A session whose frames come at their pace, but for those in `late_s`, which come so much later."""
    timeline = Timeline(PERIOD_S, settled_s=1.0)
    for index in range(frames):
        timeline.frame(index, 0, 100 + index * PERIOD_S + late_s.get(index, 0.0))
    return timeline


def test_an_even_stream_adds_nothing() -> None:
    added_s = seen({}).added_latency_s()
    assert len(added_s) == 175  # the first second is not timed
    assert float(added_s.max()) == pytest.approx(0.0, abs=1e-9)


def test_the_earliest_frame_is_where_the_pace_is_taken_from() -> None:
    timeline = seen({index: 0.005 for index in range(200) if index != 90})
    assert percentiles(timeline.added_latency_s(), 0.5) == [pytest.approx(0.005)]


def test_a_stall_makes_every_frame_late_that_it_delays() -> None:
    """Who counts the stall once would leave out those who waited for it."""
    timeline = seen({index: 0.3 - (index - 100) * PERIOD_S for index in range(100, 107)})
    assert int(np.sum(timeline.added_latency_s() > PERIOD_S)) == 7
    assert timeline.pace.late_frames == 1


def test_a_world_that_stood_still_for_good_stays_late_on_its_line_and_once_by_its_pace() -> None:
    timeline = seen({index: 0.3 for index in range(100, 200)})
    assert int(np.sum(timeline.added_latency_s() >= 2 * PERIOD_S)) == 100
    assert timeline.pace.late_frames == 1
    assert timeline.pace.stalled_s == pytest.approx(0.26)


def test_a_control_is_awaited_from_when_its_key_was_due() -> None:
    timeline = Timeline(PERIOD_S)
    timeline.control(1, due_s=99.0)
    timeline.control(2, due_s=99.9)
    timeline.control(3, due_s=100.1)
    timeline.frame(0, 0, 100.0)
    timeline.frame(1, 2, 100.2)
    assert timeline.control_to_frame_s == [pytest.approx(1.2), pytest.approx(0.3)]


@pytest.mark.parametrize(("indices", "gaps"), [([0, 1, 2], 0), ([0, 3], 2), ([0, 1, 1], 1)])
def test_frames_that_are_missing_or_come_twice_are_counted(indices: list[int], gaps: int) -> None:
    timeline = Timeline(PERIOD_S)
    for index in indices:
        timeline.frame(index, 0, 100.0 + index)
    assert timeline.index_gaps == gaps


def test_the_latest_of_the_newest_frames_is_told_while_a_session_plays() -> None:
    timeline = seen({150: 0.07}, frames=160)
    assert timeline.latest_s(0) == pytest.approx(0.07)
    assert timeline.latest_s(151) == pytest.approx(0.0, abs=1e-9)
    assert timeline.latest_s(160) == 0.0


def test_a_frame_that_comes_early_pulls_the_pace_back() -> None:
    pace = Pace(PERIOD_S)
    assert [pace.frame(0, 9.0), pace.frame(1, 10.0), pace.frame(2, 10.03)] == [0.0, 0.0, 0.0]
    assert pace.frame(3, 10.08) == pytest.approx(0.01)


def test_frames_that_never_came_have_waited_until_the_end() -> None:
    """Or a world that stands still for good would be in time."""
    timeline = seen({}, frames=100)
    timeline.end(100 + 100 * PERIOD_S - 0.001)
    assert (timeline.missing, len(timeline.added_latency_s())) == (0, 75)
    timeline.end(100 + 104.5 * PERIOD_S)
    assert timeline.missing == 4  # 100 to 103; 104 is late by half a period
    assert float(timeline.added_latency_s().max()) == pytest.approx(4.5 * PERIOD_S)
    assert summed([Seen(timeline)], 4.0).deadline_hit == pytest.approx(100 / 104, abs=1e-5)


def test_a_control_that_was_never_obeyed_has_waited_until_the_end() -> None:
    timeline = Timeline(PERIOD_S)
    timeline.control(1, due_s=100.0)
    timeline.control(2, due_s=108.9)
    timeline.end(109.0)
    assert timeline.control_to_frame_s == [9.0]


def test_what_all_players_saw_is_weighed_by_frames() -> None:
    measured = summed([Seen(seen({150: 0.1})), Seen(seen({})), Seen(Timeline(1.0), refused_by="full")], 8.0)
    assert (measured.players, measured.sessions, measured.refused) == (3, 2, {"full": 1})
    assert (measured.deadline_hit, measured.late_by_two) == (1 - 1 / 400, 1)
    assert measured.added_latency_max_s == pytest.approx(0.1)


def test_nobody_who_saw_nothing_is_in_time() -> None:
    measured = summed([Seen(Timeline(1.0), refused_by="full")], 8.0)
    assert (measured.deadline_hit, measured.timed_frames, measured.added_latency_p99_s) == (0.0, 0, 0.0)
