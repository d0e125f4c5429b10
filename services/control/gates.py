"""Gates: which session's gate a stream of controls goes through, and for how long it is kept."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from livevideo.v1.session_pb2 import Session
from services.control.gate import ControlGate
from services.errors import TooManyStreams


@dataclass
class _Shared:
    """One session's gate and how many streams go through it now."""

    gate: ControlGate
    streams: int = 0
    left_at_s: float = 0.0  # when the last stream ended


class Gates:
    """A session's streams share one gate, which outlives the last of them until it is full again.

    A gate that ended with its stream would allow a new burst to whoever opens another stream.
    """

    def __init__(
        self,
        *,
        controls_per_s: float,
        burst: int,
        streams_per_session: int,
        clock: Callable[[], float],
        most_idle: int = 10_000,
    ) -> None:
        """`most_idle`: gates that are kept without a stream; beyond it the one that was left first goes."""
        self._controls_per_s = controls_per_s
        self._burst = burst
        self._streams_per_session = streams_per_session
        self._clock = clock
        self._most_idle = most_idle
        self._open: dict[str, _Shared] = {}
        self._idle: OrderedDict[str, _Shared] = OrderedDict()  # in the order in which they were left

    @contextmanager
    def entered(self, session: Session) -> Iterator[ControlGate]:
        """The session's gate, for one stream. Raises TooManyStreams where it has as many as it may have."""
        self._forget()
        session_id = session.session_id
        shared = self._open.get(session_id) or self._idle.pop(session_id, None) or self._made(session)
        if shared.streams >= self._streams_per_session:
            raise TooManyStreams(
                f"{shared.streams} streams send its controls already; send on one of them, or end one first",
                retry_after_s=1.0,
            )
        shared.streams += 1
        self._open[session_id] = shared
        try:
            yield shared.gate.of_stream()
        finally:
            shared.streams -= 1
            if not shared.streams:
                shared.left_at_s = self._clock()
                self._idle[session_id] = self._open.pop(session_id)

    def _made(self, session: Session) -> _Shared:
        most = min(self._controls_per_s, session.controls_per_s or self._controls_per_s)
        burst = max(1, round(self._burst * most / self._controls_per_s))
        return _Shared(ControlGate(session.model, controls_per_s=most, burst=burst))

    def _forget(self) -> None:
        full_again_s = self._clock() - self._burst / self._controls_per_s
        while self._idle:
            left_first = next(iter(self._idle.values()))
            if left_first.left_at_s > full_again_s and len(self._idle) <= self._most_idle:
                return
            self._idle.popitem(last=False)

    def __len__(self) -> int:
        """How many are kept, with and without streams."""
        return len(self._open) + len(self._idle)
