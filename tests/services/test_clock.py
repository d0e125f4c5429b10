"""Every frame has its place in time."""

import itertools

import pytest

from services.decoder.clock import FrameClock

PERIOD_S = 1 / 24


def latent(index: int) -> list[int]:
    return list(range(4 * index - 3, 4 * index + 1))


def test_frames_of_a_latent_that_come_at_once_go_out_one_period_apart() -> None:
    clock = FrameClock(24, playout_delay_s=0.03)
    sent = [
        clock.place(i, ready_s=10.0 + (i - 1) // 4 * 4 * PERIOD_S, now_s=10.0).send_at_s for i in range(1, 13)
    ]
    gaps = [b - a for a, b in itertools.pairwise(sent)]
    assert gaps == pytest.approx([PERIOD_S] * 11)
    assert sent[0] == pytest.approx(10.03)


def test_the_first_picture_waits_for_nothing() -> None:
    assert FrameClock(24, 0.03).place(0, ready_s=5.0, now_s=5.0).send_at_s == 5.0


def test_a_frame_that_is_a_little_late_goes_out_at_once_and_moves_nothing() -> None:
    clock = FrameClock(24, playout_delay_s=0.0)
    for i in latent(1):
        clock.place(i, 0.0, 0.0)
    due_s = 4 * PERIOD_S
    late = clock.place(5, due_s + 0.02, due_s + 0.02)
    assert late.send_at_s == pytest.approx(due_s + 0.02)
    assert late.due_s == pytest.approx(due_s)
    assert clock.place(6, due_s + 0.02, due_s + 0.02).due_s == pytest.approx(due_s + PERIOD_S)


def test_a_stall_is_late_once_and_the_pace_goes_on_from_there() -> None:
    clock = FrameClock(24, playout_delay_s=0.0)
    clock.place(1, 0.0, 0.0)
    stalled = clock.place(2, 1.0, 1.0)
    assert stalled.send_at_s - stalled.due_s > PERIOD_S
    assert clock.place(3, 1.0, 1.0).due_s == pytest.approx(1.0 + PERIOD_S)


def test_after_a_stall_frames_that_lie_ready_come_a_little_earlier_each_time() -> None:
    clock = FrameClock(24, playout_delay_s=0.0)
    clock.place(1, 0.0, 0.0)
    clock.place(2, 0.5, 0.5)
    waits = []
    for i in range(3, 2000):
        ready_s = 0.04 + i * PERIOD_S  # far ahead of the anchor that the stall has moved
        waits.append(clock.place(i, ready_s, ready_s).send_at_s - ready_s)
    assert waits[-1] == pytest.approx(0.0, abs=1e-6)
    assert max(a - b for a, b in itertools.pairwise(waits)) < 0.06 * PERIOD_S
