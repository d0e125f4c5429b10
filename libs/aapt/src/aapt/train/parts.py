"""A step in parts: few clips are passed at once, and what they teach is added up.

Everything random is drawn for all clips before the first part, so a step in parts is the undivided step up to
rounding.
"""

from collections.abc import Iterator

from torch import nn

from aapt.train.sharding import reduce_gradients


def spans(clips: int, at_once: int) -> Iterator[slice]:
    """`clips` in order, `at_once` at a time; 0: all at once. Raises ValueError where it is less."""
    if at_once < 0:
        raise ValueError(f"{at_once} clips at once teach nothing; choose 1 or more, or 0 for all at once")
    for begin in range(0, clips, at_once or clips):
        yield slice(begin, min(begin + (at_once or clips), clips))


def shares(
    network: nn.Module, clips: int, at_once: int, *, is_last: bool = True
) -> Iterator[tuple[slice, float]]:
    """`spans`, and the share of the clips that is in each; one backward pass of `network` for each.

    is_last: no other backward pass follows in this turn. The ranks add up their gradients in the last alone.
    """
    for span in spans(clips, at_once):
        reduce_gradients(network, is_so=is_last and span.stop == clips)
        yield span, (span.stop - span.start) / clips
