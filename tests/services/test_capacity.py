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


def settled(took_s: dict[int, float], slots: int = 8, phases: int = 0) -> tuple[int, int]:
    """How many phases, and seats, a capacity of such steps has."""
    made = capacity(took_s, phases=phases)
    made.settle(slots)
    return made.phases, made.seats(slots)


def test_phases_are_as_many_as_cost_next_to_no_seat() -> None:
    # Steps may take 0.8 s of each period, less a tenth: 0.18 s of each quarter, 0.36 s of each half.
    assert settled({1: 0.1, 2: 0.15, 3: 0.2, 4: 0.25, 8: 0.5}) == (4, 8)
    assert settled({1: 0.15, 2: 0.2, 3: 0.25, 4: 0.3, 8: 0.6}) == (2, 8)
    assert settled({1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5, 8: 0.75}) == (1, 8)


def test_where_a_step_for_many_costs_what_one_for_few_does_it_is_shared() -> None:
    assert settled({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5, 8: 0.5}) == (1, 8)


def test_phases_that_were_chosen_by_somebody_stay() -> None:
    assert settled({1: 0.01, 8: 0.02}, phases=1)[0] == 1
    assert settled({1: 0.5, 2: 0.5}, phases=3)[0] == 3


def test_nothing_is_chosen_before_anything_is_known() -> None:
    assert settled({}) == (1, 8)


def test_what_a_choice_needs_is_measured() -> None:
    assert capacity({}, phases=0).sizes(10) == {1, 10, 5, 4, 3}
    assert capacity({}, phases=2).sizes(10) == {1, 5}


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
