"""Viewers are counted in only where there is time and memory for them."""

import pytest

from services.decoder.room import Room
from services.errors import DecoderFull, OutOfMemory


def room(took_s: float, latents: int = 8, threads: int = 1, left: int | None = None) -> Room:
    made = Room(threads=threads, headroom=0.8, session_bytes=100, available_bytes=lambda: left)
    for _ in range(latents):
        made.rendered(took_s)
    return made


def test_what_was_not_measured_refuses_nobody() -> None:
    room(9.0, latents=7).check(50, period_s=1.0)


def test_as_many_viewers_as_there_is_time_for() -> None:
    four = room(0.1, threads=1)
    assert four.viewers(period_s=0.5) == 4
    four.check(3, period_s=0.5)
    with pytest.raises(DecoderFull, match="time for 4 viewers and serves 4"):
        four.check(4, period_s=0.5)
    assert room(0.1, threads=2).viewers(period_s=0.5) == 8


def test_one_viewer_is_always_taken() -> None:
    room(9.0).check(0, period_s=0.5)


def test_a_viewer_for_whom_there_is_no_memory_is_refused() -> None:
    room(0.1, left=100).check(1, period_s=0.5)
    with pytest.raises(OutOfMemory, match="takes 100 bytes of memory, and 99 are left"):
        room(0.1, left=99).check(1, period_s=0.5)
