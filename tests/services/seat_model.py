"""Seats as they should be kept, in plain Python."""

from dataclasses import dataclass, field

from livevideo.v1.session_pb2 import SessionState

WAITING, LIVE, CLOSED = (
    SessionState.SESSION_STATE_WAITING,
    SessionState.SESSION_STATE_LIVE,
    SessionState.SESSION_STATE_CLOSED,
)


@dataclass
class Played:
    """What the model knows of a session."""

    state: int = WAITING
    epoch: int = 0
    seqs: list[int] = field(default_factory=list)
    seat: str | None = None  # the replica that keeps it
    replica: str = ""  # the one that had it last
    holder: str = ""  # the one that claimed it last
    snapshot: int | None = None  # the epoch of the newest


class SeatModel:
    """Which sessions there are, which replicas, and who has a seat where."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}  # of the replicas that were announced
        self.leased: set[str] = set()
        self.played: dict[str, Played] = {}

    def is_alive(self, replica: str) -> bool:
        return replica in self.leased and self.slots[replica] > 0

    def free(self, replica: str) -> int:
        return self.slots[replica] - [played.seat for played in self.played.values()].count(replica)

    def lives(self, played: Played) -> bool:
        return played.state == LIVE and bool(played.seat) and played.holder in self.leased

    def places(self, played: Played, without: str, is_planned: bool) -> set[str]:
        """Where a session that has no seat, or has lost it, may be placed."""

        def takes(replica: str | None) -> bool:
            if replica is None or not self.is_alive(replica):
                return False
            return played.seat == replica or self.free(replica) > 0

        if played.seat and played.seat != without and takes(played.seat):
            return {played.seat}
        if played.replica != without and takes(played.replica):
            return {played.replica}
        best = self.roomiest(without)
        return best or ({without} if not is_planned and without and takes(without) else set())

    def roomiest(self, without: str = "") -> set[str]:
        free = {replica: self.free(replica) for replica in self.leased - {without}}
        most = max(free.values(), default=0)
        return {replica for replica, room in free.items() if room == most > 0}
