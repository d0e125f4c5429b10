"""`Timeline`: when a session's frames came, against the moment when each of them was due."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]

SETTLED_S = 3.0  # a decoder has found a session's pace by then; what came before is counted, but not timed


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
    _due_seqs: list[int] = field(default_factory=list)
    _due_s: list[float] = field(default_factory=list)

    def control(self, seq: int, due_s: float) -> None:
        """A key changes. Numbers rise."""
        self._due_seqs.append(seq)
        self._due_s.append(due_s)

    def frame(self, index: int, control_seq: int, now_s: float) -> None:
        """A frame has arrived."""
        wanted = self.indices[-1] + 1 if self.indices else 0
        self.index_gaps += abs(index - wanted)
        self.indices.append(index)
        self.arrivals_s.append(now_s)
        if self._due_seqs and self._due_seqs[0] <= control_seq:
            obeyed = bisect.bisect_right(self._due_seqs, control_seq)
            self.control_to_frame_s += [now_s - due_s for due_s in self._due_s[:obeyed]]
            del self._due_seqs[:obeyed], self._due_s[:obeyed]

    def added_latency_s(self) -> Seconds:
        """Of each frame that came once the session had settled: its arrival less its place in time."""
        arrivals_s = np.array(self.arrivals_s)
        if not len(arrivals_s):
            return arrivals_s
        against_pace_s = arrivals_s - self.period_s * np.array(self.indices)
        settled = against_pace_s[arrivals_s >= arrivals_s[0] + self.settled_s]
        return settled - settled.min() if len(settled) else settled


def percentiles(values_s: Sequence[float] | Seconds, *shares: float) -> list[float]:
    """The values below which these shares lie, to 10 us; 0 where there are none."""
    if not len(values_s):
        return [0.0] * len(shares)
    return [round(float(each), 5) for each in np.quantile(np.asarray(values_s), shares)]
