"""`Ledger`: everything that one player was promised and given, so that nothing can be lost unnoticed."""

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Sight:
    """One frame, as it arrived."""

    at_s: float
    index: int
    control_seq: int


@dataclass
class Ledger:
    """Fills up while a player plays, through whatever happens to the services. Times by one steady clock.

    Frame 0 is wanted first, and each one after it once: what comes otherwise is written down here.
    """

    sights: list[Sight] = field(default_factory=list)
    sent: dict[int, tuple[str, ...]] = field(default_factory=dict)  # the keys that each control holds down
    sent_at_s: dict[int, float] = field(default_factory=dict)
    accepted: dict[int, float] = field(default_factory=dict)  # and after how long, from its being sent
    refused: dict[int, str] = field(default_factory=dict)  # the reason; a refused control changes nothing
    obeyed: dict[int, list[int]] = field(default_factory=dict)  # by receipt: first frame that obeys it
    breaks: list[tuple[float, str]] = field(default_factory=list)  # what ended a call, and when
    returns: list[int] = field(default_factory=list)  # the frame that was wanted when it watched again
    gaps: int = 0  # frames that never came
    duplicates: int = 0  # frames that came again
    unseen_controls: int = 0  # times that a later frame obeyed less than an earlier one
    ended_by: str = ""  # what the session was lost by; empty: nothing
    next_index: int = 0

    def frame(self, index: int, control_seq: int, now_s: float) -> None:
        """A frame has arrived."""
        if index < self.next_index:
            self.duplicates += 1
        self.gaps += max(0, index - self.next_index)
        if self.sights and control_seq < self.sights[-1].control_seq:
            self.unseen_controls += 1
        self.sights.append(Sight(now_s, index, control_seq))
        self.next_index = max(self.next_index, index + 1)

    def control(self, seq: int, down: tuple[str, ...], now_s: float) -> None:
        """A control leaves."""
        self.sent[seq] = down
        self.sent_at_s[seq] = now_s

    def receipt(
        self, seq: int, outcome: str, *, now_s: float, reason: str = "", frame_index: int = 0
    ) -> None:
        """One of accepted, refused, obeyed has come back.

        A control that is refused as old after it was sent again had been stored the first time.
        """
        if outcome == "accepted" or (outcome == "refused" and reason == "old_seq"):
            self.accepted.setdefault(seq, now_s - self.sent_at_s[seq])
        elif outcome == "refused":
            self.refused[seq] = reason
        else:
            self.obeyed.setdefault(seq, []).append(frame_index)

    @property
    def unanswered(self) -> list[int]:
        """Controls of which nothing is known: they must be sent again when a stream has broken."""
        return [seq for seq in self.sent if seq not in self.accepted and seq not in self.refused]

    @property
    def newest_obeyed(self) -> int:
        """The newest control that a frame which was seen obeys. 0: none."""
        return max((sight.control_seq for sight in self.sights), default=0)

    @property
    def lost_controls(self) -> int:
        """Controls that were acknowledged and obeyed by no frame, or not any more. Asked at the end."""
        return sum(seq > self.newest_obeyed for seq in self.accepted) + self.unseen_controls

    def pause_s(self, since_s: float) -> float:
        """The longest that the picture stood still between two frames, the second one after `since_s`."""
        times = [sight.at_s for sight in self.sights]
        return max(
            (later - earlier for earlier, later in pairwise(times) if later >= since_s),
            default=0.0,
        )
