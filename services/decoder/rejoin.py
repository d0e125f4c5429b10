"""Where a viewer that comes back goes on, and what the codec must see before that."""

from collections.abc import Sequence
from itertools import pairwise

from aapt.shapes import first_frame, latent_of
from livevideo.v1.engine_pb2 import Latent, Seated

# A viewer shows what it has missed before it lets the world go on, and an engine waits 2 s for that.
MOST_BACK = 8


def going_on(seated: Seated, from_frame: int, looks_back: int) -> tuple[int, Sequence[Latent]]:
    """Index of the first frame to be sent, and the latents to be decoded before the engine's next one.

    from_frame: the first that the viewer has not seen, which may lie within the engine's next latent, whose
    frames before it are then not sent again; 0: whatever comes next. looks_back: how many latents before its
    own a frame depends on.
    """
    next_frame = first_frame(seated.next_index)
    wanted_frame = from_frame if 0 < from_frame < first_frame(seated.next_index + 1) else next_frame
    known = _unbroken(seated.past)
    if not known:
        return max(next_frame, wanted_frame), []
    is_whole = known[0].index == 0
    oldest = known[0].index + (0 if is_whole else looks_back)
    oldest_frame = first_frame(max(oldest, seated.next_index - MOST_BACK))
    begin = max(oldest_frame, wanted_frame)
    return begin, [latent for latent in known if latent.index >= latent_of(begin) - looks_back]


def _unbroken(past: Sequence[Latent]) -> Sequence[Latent]:
    """The last of them between which nothing is missing."""
    breaks = [i for i, (a, b) in enumerate(pairwise(past), 1) if b.index != a.index + 1]
    return past[breaks[-1] :] if breaks else past
