"""How many seats are offered, from what steps were measured to take."""

from services.engine.capacity import Capacity


def capacity(took_s: dict[int, float], *, phases: int = 1, steps: int = 8) -> Capacity:
    made = Capacity(period_s=1.0, phases=phases, headroom=0.8)
    for size, step_s in took_s.items():
        for _ in range(steps):
            made.measured(size, step_s)
    return made


def test_until_steps_are_measured_every_slot_is_offered() -> None:
    assert capacity({1: 5.0}, steps=7).seats(4) == 4


def test_a_size_that_was_not_measured_shares_nothing() -> None:
    assert capacity({1: 0.25}).seats(8) == 3
    assert capacity({1: 0.25}).step_s(3) == 0.75


def test_a_measured_size_counts_as_it_was_measured() -> None:
    assert capacity({1: 0.25, 4: 0.4}).seats(8) == 8
    assert capacity({1: 0.25, 4: 0.5}).seats(8) == 6


def test_one_seat_is_always_offered() -> None:
    assert capacity({1: 3.0}).seats(4) == 1


def test_a_phase_has_its_share_of_the_period() -> None:
    # 0.8 / 4 s for each tick, and a step for one takes 0.15: one session in each phase.
    assert capacity({1: 0.15}, phases=4).seats(8) == 4
    assert capacity({1: 0.15}, phases=1).seats(8) == 5


def test_a_size_that_grew_slow_is_offered_no_more() -> None:
    made = capacity({1: 0.1, 4: 0.4})
    assert made.seats(4) == 4
    for _ in range(64):
        made.measured(4, 0.9)
    assert made.seats(4) == 3


def test_that_a_size_is_too_slow_is_forgotten_and_that_it_fits_is_not() -> None:
    now_s = [0.0]
    made = Capacity(period_s=1.0, phases=1, headroom=0.8, clock=lambda: now_s[0])
    for size, step_s in ((1, 0.1), (3, 0.2), (4, 0.9)):
        for _ in range(8):
            made.measured(size, step_s)
    assert made.seats(4) == 3
    now_s[0] += 61
    assert made.seats(4) == 4
    assert made.step_s(3) == 0.2
