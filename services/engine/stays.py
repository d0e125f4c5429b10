"""`Stays`: who stays in this engine, and the last latents of those who have left."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from services import telemetry
from services.engine.residence import Residence
from services.errors import SeatTaken, Superseded
from services.trail import Trail

log = telemetry.logger("engine")


class Stay:
    """One session's stay, for as long as its Generate call lasts."""

    def __init__(self, session_id: str, residence: Residence, now_s: float) -> None:
        self.session_id = session_id
        self.residence = residence
        self.trail = Trail(0)  # of the latents that went out
        self.epoch = 0  # of its claim; 0: not claimed yet
        self.sign_at_s = now_s  # the viewer's last sign of life
        self.changed = asyncio.Event()  # by a sign of life, or by its end

    def credited(self, now_s: float) -> None:
        """The viewer has shown something."""
        self.sign_at_s = now_s
        self.changed.set()


@dataclass(frozen=True)
class _Left:
    """What is kept of a stay that has ended."""

    trail: Trail
    epoch: int
    until_s: float


class Stays:
    """A session stays once. Whoever comes back finds the latents that went out."""

    def __init__(
        self, *, silence_s: float, kept_s: float, most_kept: int, clock: Callable[[], float]
    ) -> None:
        """silence_s: a viewer that gives no sign of life for so long loses its seat to one that comes.

        kept_s: how long the latents of a stay that has ended are kept; those of `most_kept` at most.
        """
        self._silence_s = silence_s
        self._kept_s = kept_s
        self._most_kept = most_kept
        self._clock = clock
        self._here: dict[str, Stay] = {}
        self._left: OrderedDict[str, _Left] = OrderedDict()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._here)

    async def until_empty(self) -> None:
        """Until nobody stays here."""
        await self._emptied.wait()

    async def make_way(self, session_id: str) -> None:
        """Until nobody else watches the session here. Raises SeatTaken at that viewer's next sign of life."""
        while (stay := self._here.get(session_id)) is not None:
            stay.changed.clear()
            left_s = stay.sign_at_s + self._silence_s - self._clock()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    await stay.changed.wait()
            except TimeoutError:
                log.info("seat taken over", session=session_id, epoch=stay.epoch)
                self.leave(stay)
                stay.residence.end(Superseded("another viewer has taken the seat of one that was silent"))
            else:
                if self._here.get(session_id) is stay:
                    raise SeatTaken(
                        f"session {session_id} has a viewer already; close that one, or open another session"
                    )

    def enter(self, session_id: str, residence: Residence) -> Stay:
        """After `make_way`."""
        assert session_id not in self._here
        stay = self._here[session_id] = Stay(session_id, residence, self._clock())
        self._emptied.clear()
        return stay

    def leave(self, stay: Stay) -> None:
        """Its latents are kept for a while. Leaving twice is no error."""
        if self._here.get(stay.session_id) is not stay:
            return
        del self._here[stay.session_id]
        stay.changed.set()
        if not self._here:
            self._emptied.set()
        if stay.trail.newest is not None:
            self._left.pop(stay.session_id, None)
            self._left[stay.session_id] = _Left(stay.trail, stay.epoch, self._clock() + self._kept_s)
        self._forget()

    def trail(self, session_id: str, epoch: int) -> Trail | None:
        """What went out in this epoch. None: it is not known here, or not any more."""
        self._forget()
        left = self._left.get(session_id)
        return left.trail if left is not None and left.epoch == epoch else None

    def _forget(self) -> None:
        while self._left:
            oldest = next(iter(self._left.values()))
            if oldest.until_s > self._clock() and len(self._left) <= self._most_kept:
                return
            self._left.popitem(last=False)
