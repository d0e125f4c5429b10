"""What is kept of a session's latents, and where a viewer that comes back goes on."""

import pytest

from livevideo.v1.engine_pb2 import Latent, Seated
from services.decoder.rejoin import MOST_BACK, going_on
from services.trail import Trail

LOOKS_BACK = 2


def trail(latents: int, kept: int = 4) -> Trail:
    return Trail(kept, (Latent(index=i) for i in range(latents)))


def indices(latents: object) -> list[int]:
    return [latent.index for latent in latents]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("latents", "kept"),
    [
        (0, []),
        (1, [0]),
        (4, [0, 1, 2, 3]),
        (5, [0, 1, 2, 3, 4]),
        (6, [0, 1, 2, 3, 4, 5]),
        (9, [0, 1, 5, 6, 7, 8]),
    ],
)
def test_the_first_two_latents_and_the_last_ones_are_kept_each_once(latents: int, kept: list[int]) -> None:
    assert indices(trail(latents).latents()) == kept
    assert trail(latents).next_index == latents
    assert indices(Trail(4, trail(latents).latents()).latents()) == kept, "a trail can be handed on"


def test_of_a_trail_only_what_a_world_needs_is_taken() -> None:
    assert indices(trail(9).latents(2)) == [0, 1, 7, 8]
    assert indices(trail(3).latents(2)) == [0, 1, 2]
    assert indices(trail(9).after(6)) == [7, 8]


def seated(latents: int, kept: int = 16) -> Seated:
    return Seated(next_index=latents, past=trail(latents, kept).latents())


@pytest.mark.parametrize(
    ("seat", "from_frame", "begins", "decoded"),
    [
        (Seated(), 0, 0, []),  # a new session
        (seated(10), 0, 37, [8, 9]),  # whatever comes next
        (seated(10), 37, 37, [8, 9]),  # nothing was missed
        (seated(10), 39, 39, [8, 9]),  # half of the next latent has been seen already
        (seated(10), 30, 30, [6, 7, 8, 9]),  # the last of latent 8's frames was seen, or not
        (seated(10), 2**63, 37, [8, 9]),  # it cannot have seen what was never made
        (seated(3), 1, 1, [0, 1, 2]),  # from the beginning, all is known
        (seated(40), 1, 4 * (40 - MOST_BACK) - 3, [*range(40 - MOST_BACK - LOOKS_BACK, 40)]),  # too far back
        (seated(40, kept=4), 120, 149, [36, 37, 38, 39]),  # two of them are shown to nobody
        (Seated(next_index=9), 20, 33, []),  # an engine that keeps nothing
    ],
)  # fmt: skip
def test_a_viewer_goes_on_where_it_stopped_or_where_it_can(
    seat: Seated, from_frame: int, begins: int, decoded: list[int]
) -> None:
    begin, before = going_on(seat, from_frame, LOOKS_BACK)
    assert (begin, indices(before)) == (begins, decoded)
