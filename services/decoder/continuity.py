"""`Continuity`: whether one viewer's picture moves as promised, and whose doing it is where it does not."""

from collections import deque

from aapt.shapes import FRAMES_PER_LATENT, latent_of
from livevideo.v1.session_pb2 import Session
from services import telemetry

OUTCOMES = ("left", "ended", "moved", "failed")


class Continuity:
    """Counts a session's frames by their timing, what was played, and what stood still. It is told the time.

    A viewer who shows frames late gives credit late, and latents are not made without. What is late for
    that reason is `held_up`, and nobody's fault but the viewer's.
    """

    def __init__(self, session: Session, *, asked_at_s: float, from_frame: int = 0) -> None:
        """asked_at_s: when the viewer came, by the monotonic clock; from_frame: what it waits for.

        A viewer that comes back has a picture that stands still until then.
        """
        # Every counter exists from the beginning: the first of an increase from nothing would not be seen.
        tenant, model = telemetry.tenant_label(session.tenant), session.model.name
        self._frames = {
            timing: telemetry.FRAMES.labels(tenant, model, timing)
            for timing in ("on_time", "late", "held_up")
        }
        for outcome in OUTCOMES:
            telemetry.SESSION_OUTCOMES.labels(tenant, model, outcome)
        self._first_frame = telemetry.FIRST_FRAME.labels(tenant, model)
        self._interval = telemetry.FRAME_INTERVAL.labels(model)
        self._control_to_frame = telemetry.CONTROL_TO_FRAME.labels(tenant, model)
        self._played = telemetry.PLAYED.labels(tenant, model)
        self._stalled = telemetry.STALLED.labels(tenant, model)
        self._period_s = 1 / session.model.frames_per_second
        self._is_new = session.epoch == 0 and from_frame == 0
        self._asked_at_s = asked_at_s
        self._sent_at_s: float | None = None
        self._still_since_s = asked_at_s if from_frame > 0 else None
        self._limit = 0
        self._credits: deque[tuple[int, float]] = deque(maxlen=64)  # (latents below this, may be made since)
        self._latent = -1  # the newest that a frame was sent of

    def allowed(self, limit: int, now_s: float) -> None:
        """The viewer let every latent below `limit` be made."""
        if limit > self._limit:
            self._limit = limit
            self._credits.append((limit, now_s))

    def sent(self, index: int, lateness_s: float, now_s: float) -> None:
        """Frame `index` was sent, so long after its place in time."""
        timing = "on_time"
        if lateness_s > self._period_s:
            timing = "held_up" if self._is_held_up(latent_of(index), now_s - lateness_s) else "late"
            if timing == "late":
                self._stalled.inc(lateness_s - self._period_s)
        self._frames[timing].inc()
        self._played.inc(self._period_s)
        if self._sent_at_s is not None:
            self._interval.observe(now_s - self._sent_at_s)
        elif self._is_new:
            self._first_frame.observe(now_s - self._asked_at_s)
        elif self._still_since_s is not None:
            self._stalled.inc(max(0.0, now_s - self._still_since_s - self._period_s))
        self._sent_at_s = self._still_since_s = now_s
        self._latent = latent_of(index)

    def obeyed(
        self, index: int, control_to_frame_s: float, due_s: float, trace: dict[str, str] | None = None
    ) -> None:
        """Frame `index`, due at `due_s`, is the first that obeys a control received so long ago.

        trace: to be found beside that, where one is recorded.
        """
        if not self._is_held_up(latent_of(index), due_s):
            self._control_to_frame.observe(control_to_frame_s, trace)

    def broken(self, now_s: float) -> None:
        """No frame comes any more while there is none to be sent, which the viewer may have waited for."""
        is_owed = self._sent_at_s is None or self._latent + 1 < self._limit
        if self._still_since_s is not None and is_owed:
            self._stalled.inc(max(0.0, now_s - self._still_since_s - self._period_s))
            self._still_since_s = None

    def _is_held_up(self, latent: int, due_s: float) -> bool:
        """Whether the credit for a latent came later than one tick before its frames were due."""
        tick_s = FRAMES_PER_LATENT * self._period_s
        since_s = next((at_s for limit, at_s in self._credits if limit > latent), None)
        return since_s is not None and since_s > due_s - tick_s
