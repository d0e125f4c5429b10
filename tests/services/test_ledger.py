"""What a player writes down, and whether what the network was told is what was sent."""

import pytest

from loadtests.ledger import Ledger
from services.bench.faults.proof import made_twice, unexplained


@pytest.fixture
def ledger() -> Ledger:
    """Of a player who tapped right, held left, and let go, a control each latent."""
    ledger = Ledger()
    for seq, down in enumerate([("right",), (), ("left",), ()], 1):
        ledger.control(seq, down, now_s=float(seq))
        ledger.receipt(seq, "accepted", now_s=seq + 0.5)
    return ledger


def saw(ledger: Ledger, *control_seqs: int) -> None:
    """Whole latents, which obey these."""
    ledger.frame(0, 0, 0.0)
    for seq in control_seqs:
        for _ in range(4):
            ledger.frame(ledger.next_index, seq, ledger.next_index / 24)


def keys(*latents: str) -> dict[int, frozenset[str]]:
    return {index: frozenset(down.split()) for index, down in enumerate(latents, 1)}


def test_frames_that_are_skipped_or_come_again_are_counted() -> None:
    ledger = Ledger()
    for index in (0, 1, 1, 0, 4, 5):
        ledger.frame(index, 0, 0.0)
    assert (ledger.duplicates, ledger.gaps, ledger.next_index) == (2, 2, 6)


def test_a_control_is_lost_that_no_frame_obeys_at_the_end(ledger: Ledger) -> None:
    saw(ledger, 1, 2)
    assert ledger.lost_controls == 2
    saw_more = ledger.next_index
    ledger.frame(saw_more, 4, 9.0)
    assert ledger.lost_controls == 0


def test_a_frame_that_obeys_less_than_one_before_has_lost_a_control(ledger: Ledger) -> None:
    saw(ledger, 2, 1, 4)
    assert ledger.lost_controls == 1


def test_a_control_that_is_refused_as_old_when_it_is_sent_again_was_accepted() -> None:
    ledger = Ledger()
    for seq in (1, 2):
        ledger.control(seq, (), now_s=0.0)
    ledger.receipt(1, "refused", reason="old_seq", now_s=1.0)
    ledger.receipt(2, "refused", reason="flood", now_s=1.0)
    assert (set(ledger.accepted), ledger.refused, ledger.unanswered) == ({1}, {2: "flood"}, [])


def test_the_longest_pause_is_the_longest_time_between_two_frames_after_a_moment() -> None:
    ledger = Ledger()
    for index, at_s in enumerate([0.0, 9.0, 9.1, 10.5, 10.6]):
        ledger.frame(index, 0, at_s)
    assert ledger.pause_s(since_s=9.05) == pytest.approx(1.4)


def test_a_latent_must_be_told_what_is_held_and_what_went_down_since_the_last(ledger: Ledger) -> None:
    saw(ledger, 2, 3, 4)
    assert unexplained(keys("right", "left", ""), ledger, remade=()) == ""


def test_a_tap_that_the_network_was_not_told_of_is_lost(ledger: Ledger) -> None:
    saw(ledger, 2, 3, 4)
    assert "latent 1 was told []" in unexplained(keys("", "left", ""), ledger, remade=())


def test_a_tap_that_is_told_twice_was_obeyed_twice(ledger: Ledger) -> None:
    saw(ledger, 2, 3, 4)
    assert "latent 2 was told ['left', 'right']" in unexplained(
        keys("right", "left right", ""), ledger, remade=()
    )


def test_a_latent_that_was_made_again_may_obey_a_control_later_but_each_is_obeyed_once(
    ledger: Ledger,
) -> None:
    saw(ledger, 2, 3, 3, 4)
    assert unexplained(keys("", "right", "left", ""), ledger, remade={1, 2}) == ""
    assert "latent 3" in unexplained(keys("", "", "left", ""), ledger, remade={1, 2})


def test_what_a_viewer_had_seen_of_a_world_that_went_on_from_a_snapshot_was_made_twice() -> None:
    """It went on with latent 10, when it was seen up to the first frame of latent 14, and later with 100."""
    assert made_twice([10, 100], [54, 400]) == {10, 11, 12, 13, 14, 100}
    assert made_twice([20], []) == set()
