"""Where a viewer that comes back goes on, and what the codec must see before that."""

from collections.abc import Sequence
from itertools import pairwise

from aapt.shapes import first_frame, latent_of
from livevideo.v1.engine_pb2 import Latent, Seated

# A viewer shows what it has missed before it lets the world go on, and an engine waits 2 s for that.
MOST_BACK = 8


def going_on(seated: Seated, from_frame: int, looks_back: int) -> tuple[int, Sequence[Latent]]:
    """Index of the first frame to be sent, and the latents to be decoded before the engine's next one.

    from_frame: the first that the viewer has not seen; 0: whatever comes next. looks_back: how many latents
    before its own a frame depends on.
    """
    next_index, known = seated.next_index, _unbroken(seated.past)
    if not from_frame or latent_of(from_frame) > next_index:  # it cannot have seen what was never made
        from_frame = first_frame(next_index)
    oldest = next_index
    if known:
        is_whole = known[0].index == 0
        exact = known[0].index + (0 if is_whole else looks_back)
        oldest = min(next_index, max(exact, next_index - MOST_BACK))
    begin = max(from_frame, first_frame(oldest))
    return begin, [latent for latent in known if latent.index >= latent_of(begin) - looks_back]


def _unbroken(past: Sequence[Latent]) -> Sequence[Latent]:
    """The last of them between which nothing is missing."""
    breaks = [i for i, (a, b) in enumerate(pairwise(past), 1) if b.index != a.index + 1]
    return past[breaks[-1] :] if breaks else past
