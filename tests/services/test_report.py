"""What a player's measurements amount to."""

import pytest

from livevideo.v1.engine_pb2 import StageTimes
from livevideo.v1.frame_pb2 import Frame
from loadtests.player import Script
from loadtests.report import Measurements, percentile

PERIOD_S = 1 / 24


def measured(arrivals_s: list[float], indices: list[int] | None = None) -> Measurements:
    made = Measurements(PERIOD_S, opened_at_s=99.5)
    for index, at_s in zip(indices or range(len(arrivals_s)), arrivals_s, strict=True):
        made.frame(Frame(index=index), 100 + at_s)
    return made


def test_an_even_stream_is_at_full_pace_with_nothing_late() -> None:
    report = measured([0.0, *(0.2 + i * PERIOD_S for i in range(240))]).report()
    assert report.fps == pytest.approx(24, abs=0.01)
    assert (report.late_ratio, report.index_gaps, report.first_frame_s) == (0, 0, 0.5)


def test_one_stall_is_counted_once() -> None:
    stalled = measured([0.0, *(i * PERIOD_S + (0.3 if i > 50 else 0) for i in range(1, 101))])
    assert stalled.pace.late_frames == 1
    assert stalled.report().longest_gap_s == pytest.approx(0.3 + PERIOD_S, abs=1e-3)


@pytest.mark.parametrize("indices", [[0, 1, 3, 4], [0, 1, 1, 2]])
def test_frames_that_are_skipped_or_sent_twice_are_gaps(indices: list[int]) -> None:
    assert measured([0.0, 0.1, 0.2, 0.3], indices).index_gaps == 1


def test_control_to_frame_ends_with_the_first_frame_that_obeys() -> None:
    made = measured([0.0, 0.1])
    made.control(5, 100.15)
    made.frame(Frame(index=2, control_seq=4), 100.2)
    made.frame(Frame(index=3, control_seq=6), 100.4)
    assert made.control_to_frame_s == [pytest.approx(0.25)]


def test_stages_that_were_not_measured_do_not_count() -> None:
    made = measured([0.0])
    made.frame(Frame(index=1, times=StageTimes(step_s=0.02)), 100.1)
    assert (made.stages_s["step"], made.stages_s["tick_wait"]) == ([0.02], [])


def test_a_stream_that_never_moved_has_no_report() -> None:
    with pytest.raises(ValueError, match="only 1 frames came"):
        measured([0.0]).report()


def test_percentiles_of_nothing_are_zero() -> None:
    assert (percentile([], 0.5), percentile([3.0, 1.0, 2.0], 0.5), percentile([1.0], 0.95)) == (0, 2.0, 1.0)


def test_the_recorded_script_is_in_order_and_knows_its_keys() -> None:
    script = Script.load("road-lap")
    times = [at_s for at_s, _ in script.events]
    assert times == sorted(times)
    assert times[-1] < script.length_s
    assert {key for _, down in script.events for key in down} <= {"left", "right", "up", "down"}
