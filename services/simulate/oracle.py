"""The least GPU hours that whoever knew all arrivals would have needed for the sessions that were seated."""

import math
from collections.abc import Sequence


def least_gpu_hours(
    playing: Sequence[tuple[float, int]], *, seats: float, start_s: float, ends_s: float
) -> float:
    """playing: (when, how many play from then on), by time. seats: of an engine. start_s: until it serves.

    Sessions may move at no cost, so only how many play counts. The k-th engine is needed while more play than
    k - 1 have seats for; it starts in time, and is kept where starting again would cost more than the gap.
    Those that are needed from the beginning were started before it, which is not counted.
    """
    used_s = 0.0
    since: list[float] = []  # of engines that are needed now: since when
    ended: list[float] = []  # of each engine: when it was last needed
    for at_s, count in playing:
        needed = math.ceil(count / seats)
        while len(since) < needed:
            level = len(since)
            if level < len(ended):
                gap_s = at_s - ended[level]
                used_s += min(gap_s, start_s)
            else:
                used_s += min(at_s, start_s)
                ended.append(at_s)
            since.append(at_s)
        while len(since) > needed:
            began_s = since.pop()
            used_s += at_s - began_s
            ended[len(since)] = at_s
    used_s += sum(ends_s - began_s for began_s in since)
    return used_s / 3600
