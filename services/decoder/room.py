"""`Room`: how many viewers a decoder has time and memory for."""

from collections.abc import Callable

from services import memory
from services.errors import DecoderFull, OutOfMemory
from services.pace import Pace

_RETRY_AFTER_S = 5.0


class Room:
    """Counts a viewer in only where there is time in every period to decode and encode a latent more.

    threads: latents that are rendered at the same time.
    headroom: the share of their time that may be spent.
    session_bytes: what a viewer takes: the codec's tails, the window that is kept, the frames that wait.
    """

    def __init__(
        self,
        *,
        threads: int,
        headroom: float,
        session_bytes: int,
        available_bytes: Callable[[], int | None] = memory.available_bytes,
    ) -> None:
        self._threads = threads
        self._headroom = headroom
        self._session_bytes = session_bytes
        self._available_bytes = available_bytes
        self._pace = Pace()

    def rendered(self, took_s: float) -> None:
        """Take in what it took to make one latent's frames."""
        self._pace.measured(took_s)

    def viewers(self, period_s: float) -> int | None:
        """How many can be served whose latents come every `period_s`; one always. None: not measured yet."""
        took_s = self._pace.median_s
        if took_s is None:
            return None
        return max(1, int(self._headroom * self._threads * period_s / max(took_s, 1e-9)))

    def check(self, watching: int, period_s: float) -> None:
        """Whether one more can be served beside those. Raises DecoderFull, OutOfMemory."""
        room, left = self.viewers(period_s), self._available_bytes()
        if room is not None and watching >= room:
            raise DecoderFull(
                f"this decoder has time for {room} viewers and serves {watching}; watch at another, or later",
                retry_after_s=_RETRY_AFTER_S,
            )
        if left is not None and left < self._session_bytes:
            raise OutOfMemory(
                f"a viewer takes {self._session_bytes} bytes of memory, and {left} are left; watch elsewhere",
                retry_after_s=_RETRY_AFTER_S,
            )
