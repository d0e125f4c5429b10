"""`Timeline` and `Pace`: when a session's frames came, against the moment when each of them was due."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

UNANSWERED_S = 1.0  # a control that has waited for so long at the end counts, though its frame never came
SETTLED_S = 3.0  # a decoder has found a session's pace by then; what came before is counted, but not timed


@dataclass
class Pace:
    """The places in time of a session's frames, as `services/decoder/clock.py` has them and the SLO counts.

    A frame that comes early pulls them back, and a stall moves them: it is counted once, and not for ever.
    """

    period_s: float
    late_frames: int = 0  # that came more than one frame period after their place
    stalled_s: float = 0.0  # how long, past that period
    _anchor_s: float | None = None

    def frame(self, index: int, now_s: float) -> float:
        """Takes in a frame. Returns how much later than its place it came, in seconds."""
        if index == 0:  # the first picture is there at once; the pace begins with what is generated
            return 0.0
        late_s = now_s - index * self.period_s - (self._anchor_s or 0.0)
        if self._anchor_s is None or late_s < 0:
            self._anchor_s = now_s - index * self.period_s
            return 0.0
        if late_s > self.period_s:
            self.late_frames += 1
            self.stalled_s += late_s - self.period_s
            self._anchor_s += late_s
        return late_s

    def place_s(self, index: int) -> float:
        """Where frame `index` has its place. Infinite where no pace is known yet."""
        return math.inf if self._anchor_s is None else self._anchor_s + index * self.period_s


@dataclass
class Timeline:
    """One session's, in its player's clock. Nothing that is late makes anything after it due later.

    Frame i is due i periods after frame 0 would have been, on the line through the frame that came earliest
    against it. What a stall delays is late frame by frame, until the session is back at its pace. A control's
    frame is awaited from the moment when the key was due to change, whether or not it could be sent then.
    """

    period_s: float
    settled_s: float = SETTLED_S
    indices: list[int] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    control_to_frame_s: list[float] = field(default_factory=list)
    index_gaps: int = 0  # frames that never came, or came again
    pace: Pace = field(init=False)
    _due_seqs: list[int] = field(default_factory=list)
    _due_s: list[float] = field(default_factory=list)
    _earliest_s: float = float("inf")
    _ended_s: float | None = None

    def __post_init__(self) -> None:
        self.pace = Pace(self.period_s)

    def control(self, seq: int, due_s: float) -> None:
        """A key changes. Numbers rise."""
        self._due_seqs.append(seq)
        self._due_s.append(due_s)

    def frame(self, index: int, control_seq: int, now_s: float) -> None:
        """A frame has arrived."""
        self.pace.frame(index, now_s)
        self.index_gaps += abs(index - self._next_index)
        self.indices.append(index)
        self.arrivals_s.append(now_s)
        if self._due_seqs and self._due_seqs[0] <= control_seq:
            obeyed = bisect.bisect_right(self._due_seqs, control_seq)
            self.control_to_frame_s += [now_s - due_s for due_s in self._due_s[:obeyed]]
            del self._due_seqs[:obeyed], self._due_s[:obeyed]

    def end(self, now_s: float) -> None:
        """Nobody watches any more. What was due by now and has not come has waited until now at the least."""
        self._ended_s = now_s
        self.control_to_frame_s += [now_s - due_s for due_s in self._due_s if now_s - due_s > UNANSWERED_S]

    @property
    def missing(self) -> int:
        """How many frames had their place more than one frame period before the end, and never came."""
        return int(np.sum(self._owed_s(self.pace.place_s(self._next_index)) > self.period_s))

    def latest_s(self, since: int) -> float:
        """Of the frames after the first `since`, how much later than its place the latest came, as far as the
        pace is known by now."""
        new = zip(self.indices[since:], self.arrivals_s[since:], strict=True)
        against_pace_s = [at_s - self.period_s * index for index, at_s in new if index]
        self._earliest_s = min([self._earliest_s, *against_pace_s])
        return max(against_pace_s) - self._earliest_s if against_pace_s else 0.0

    def added_latency_s(self) -> Seconds:
        """Of each frame that came once the session had settled: its arrival less its place in time."""
        arrivals_s: Seconds = np.array(self.arrivals_s, np.float64)
        if not len(arrivals_s):
            return arrivals_s
        against_pace_s = arrivals_s - self.period_s * np.array(self.indices)
        settled: Seconds = against_pace_s[arrivals_s >= arrivals_s[0] + self.settled_s]
        line_s = float(settled.min(initial=np.inf))
        owed_s = self._owed_s(line_s + self.period_s * self._next_index)
        added_s: Seconds = np.concatenate([settled - line_s, owed_s])
        return added_s

    @property
    def _next_index(self) -> int:
        return self.indices[-1] + 1 if self.indices else 0

    def _owed_s(self, due_s: float) -> Seconds:
        """How long each frame has been waited for in vain, of which the first was due at `due_s`."""
        waited_s = -math.inf if self._ended_s is None else self._ended_s - due_s
        frames = max(0, math.ceil(waited_s / self.period_s)) if math.isfinite(waited_s) else 0
        owed_s: Seconds = waited_s - self.period_s * np.arange(frames, dtype=np.float64)
        return owed_s


def percentiles(values_s: Sequence[float] | Seconds, *shares: float) -> list[float]:
    """The values below which these shares lie, to 10 us; 0 where there are none."""
    if not len(values_s):
        return [0.0] * len(shares)
    return [round(float(each), 5) for each in np.quantile(np.asarray(values_s), shares)]
