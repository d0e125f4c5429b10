"""From which frame on a viewer who comes back is served."""

import pytest

from livevideo.v1.engine_pb2 import Latent, Seated
from services.decoder.rejoin import MOST_BACK, going_on


def seated(next_index: int, past: int) -> Seated:
    """By an engine that still knows the last `past` latents."""
    return Seated(next_index=next_index, past=[Latent(index=i) for i in range(next_index - past, next_index)])


@pytest.mark.parametrize(
    ("from_frame", "begin"),
    [
        (0, 37),  # whatever comes next: latent 10
        (37, 37),
        (38, 38),  # of latent 10 one frame was seen already, and is not sent again
        (40, 40),
        (41, 37),  # of a latent that the engine does not come to yet: nobody has seen that
        (10**9, 37),
        (36, 36),
        (30, 30),
    ],
)
def test_a_viewer_is_sent_what_it_has_not_seen(from_frame: int, begin: int) -> None:
    assert going_on(seated(10, past=8), from_frame, looks_back=2)[0] == begin


def test_a_viewer_who_was_away_for_too_long_goes_on_where_it_can() -> None:
    begin, known = going_on(seated(40, past=30), 1, looks_back=2)
    assert begin == 4 * (40 - MOST_BACK - 1) + 1
    assert [latent.index for latent in known] == [*range(40 - MOST_BACK - 2, 40)]


@pytest.mark.parametrize(("from_frame", "begin"), [(0, 37), (39, 39), (20, 37)])
def test_without_a_past_only_the_next_latent_can_be_begun_within(from_frame: int, begin: int) -> None:
    assert going_on(seated(10, past=0), from_frame, looks_back=2) == (begin, [])
