"""`FrameClock`: when each frame of a session has its place in time."""

from collections import deque
from dataclasses import dataclass

_LOOK_BACK_S = 2.0  # the latest arrival of this long decides how early frames may be shown
_CATCH_UP = 0.05  # of a frame period, each frame: too little to be seen


@dataclass(frozen=True)
class Place:
    """Where a frame belongs."""

    due_s: float  # its place in time
    send_at_s: float  # when to send it: not before its place, and not before now


class FrameClock:
    """Frame i is due at anchor + i/fps. Pure: it is told the time, and never waits.

    A late frame is sent at once; one that is late by more than a frame period moves the anchor, since the
    world had stood still. Where frames have been lying ready for longer than the playout delay, the anchor is
    pulled back little by little, or one stall would make every later frame late for good.
    """

    def __init__(self, frames_per_second: float, playout_delay_s: float) -> None:
        self._period_s = 1 / frames_per_second
        self._delay_s = playout_delay_s
        self._anchor_s: float | None = None
        self._arrivals_s: deque[float] = deque(maxlen=max(1, round(_LOOK_BACK_S * frames_per_second)))

    def place(self, index: int, ready_s: float, now_s: float) -> Place:
        """The place of frame `index`, ready since `ready_s`; frames are asked for in their order."""
        if index == 0:
            # The first picture stands before the world begins to move: it is shown as soon as it is there.
            return Place(now_s, now_s)
        offset_s = index * self._period_s
        arrival_s = ready_s - offset_s
        if self._anchor_s is None:
            self._anchor_s = arrival_s + self._delay_s
        due_s = self._anchor_s + offset_s
        if now_s - due_s > self._period_s:
            self._anchor_s = now_s - offset_s + self._delay_s
            self._arrivals_s.clear()
            return Place(due_s, now_s + self._delay_s)
        self._arrivals_s.append(arrival_s)
        self._catch_up()
        return Place(due_s, max(due_s, now_s))

    def _catch_up(self) -> None:
        assert self._anchor_s is not None
        if len(self._arrivals_s) == self._arrivals_s.maxlen:
            early_s = self._anchor_s - max(self._arrivals_s) - self._delay_s
            self._anchor_s -= min(max(early_s, 0.0), _CATCH_UP * self._period_s)
