"""A plain Python model of SessionStore, which any row of calls is made to beside the real one."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)
from redis.asyncio import Redis

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.resume_pb2 import SnapshotRequest
from livevideo.v1.session_pb2 import AnnounceRequest, Model, Session
from services import errors
from services.sessions import scripts
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import control
from tests.services.seat_model import CLOSED, LIVE, WAITING, Played, SeatModel

T = TypeVar("T")
ROAD = Model(name="road", width_px=64, height_px=40, frames_per_second=24)
REPLICAS, SLOTS = ("a", "b", "c"), st.integers(0, 2)
# Nothing lapses by itself here: the rules say when.
LIMITS = StoreLimits(3600, 3600, 3600, 3600, 3600, 3600, controls_kept=64, command_s=10.0)


class StoreAgainstModel(RuleBasedStateMachine):
    """Each rule does one thing to both, and compares what they say."""

    sessions = Bundle("sessions")

    def __init__(self, url: str) -> None:
        super().__init__()
        self.model = SeatModel()
        self._runner = asyncio.Runner()
        self._redis = Redis.from_url(url)
        self._store = SessionStore(url, LIMITS, block_s=0.01)

    @initialize()
    def begin(self) -> None:
        self._run(self._redis.flushall())

    def teardown(self) -> None:
        self._run(self._store.close())
        self._run(self._redis.aclose())
        self._runner.close()

    @rule(replica=st.sampled_from(REPLICAS), slots=SLOTS)
    def announce(self, replica: str, slots: int) -> None:
        self._run(
            self._store.announce(
                AnnounceRequest(replica=replica, address=f"{replica}:1", model=ROAD, slots=slots)
            )
        )
        self.model.slots[replica] = slots
        self.model.leased.add(replica)

    @rule(replica=st.sampled_from(REPLICAS))
    def a_lease_lapses(self, replica: str) -> None:
        just_now_ms = 1000 * (time.time() - 1)  # one that is long gone is forgotten
        self._run(self._redis.zadd(_key("replicas"), {replica: just_now_ms}, xx=True))
        self.model.leased.discard(replica)

    @rule(session=sessions)
    def a_seat_lapses(self, session: str) -> None:
        self._run(self._redis.zadd(_key("seats"), {session: 1}, xx=True))
        self.model.played[session].seat = None

    @rule(target=sessions)
    def open(self) -> Any:
        best = self.model.roomiest()
        outcome = self._outcome(self._store.open(Session(model=ROAD)))
        if not best:
            assert outcome is (errors.EngineFull if self.model.leased else errors.NoEngine)
            return multiple()
        assert isinstance(outcome, Session)
        assert outcome.replica in best
        self.model.played[outcome.session_id] = Played(seat=outcome.replica, replica=outcome.replica)
        return outcome.session_id

    @rule(session=sessions)
    def find(self, session: str) -> None:
        played = self.model.played[session]
        found = self._outcome(self._store.find(session))
        assert isinstance(found, Session)
        state = WAITING if played.state == LIVE and not self.model.lives(played) else played.state
        assert (found.state, found.epoch, found.replica) == (state, played.epoch, played.replica)
        assert found.newest_seq == max(played.seqs, default=0)

    @rule(
        session=sessions,
        behind=st.none() | st.integers(0, 1),
        without=st.sampled_from(("", *REPLICAS)),
        is_planned=st.booleans(),
    )
    def place(self, session: str, behind: int | None, without: str, is_planned: bool) -> None:
        played = self.model.played[session]
        lost = 0 if behind is None else max(0, played.epoch - behind)
        is_planned = is_planned and lost > 0
        outcome = self._outcome(
            self._store.place(session, lost_epoch=lost, without=without, is_planned=is_planned)
        )
        if played.state == CLOSED:
            assert outcome is errors.SessionClosed
            return
        if lost and behind:
            assert outcome is errors.Superseded
            return
        expected = {played.replica}
        if lost or not self.model.lives(played):
            expected = self.model.places(played, without, is_planned)
            if not expected:
                assert outcome is (errors.EngineFull if self.model.leased - {without} else errors.NoEngine)
                return
            assert isinstance(outcome, Session)
            played.seat = outcome.replica
            if not is_planned:
                played.state, played.replica = WAITING, outcome.replica
        assert isinstance(outcome, Session)
        assert outcome.replica in expected
        assert (outcome.state, outcome.epoch) == (played.state, played.epoch)

    @rule(session=sessions, replica=st.sampled_from(REPLICAS), behind=st.none() | st.integers(0, 1))
    def claim(self, session: str, replica: str, behind: int | None) -> None:
        played = self.model.played[session]
        after_epoch = None if behind is None else played.epoch - behind
        outcome = self._outcome(self._store.claim(session, replica, after_epoch))
        if played.state == CLOSED:
            assert outcome is errors.SessionClosed
        elif behind:
            assert outcome is errors.Superseded
        elif self.model.lives(played) and (behind is None or played.seat != replica):
            assert outcome is errors.SeatTaken
        elif replica not in self.model.slots:
            assert outcome is errors.NoEngine
        elif played.seat != replica and self.model.free(replica) < 1:
            assert outcome is errors.EngineFull
        else:
            played.state, played.epoch = LIVE, played.epoch + 1
            played.seat = played.replica = played.holder = replica
            assert isinstance(outcome, Session)
            assert outcome.epoch == played.epoch
            assert outcome.newest_seq == max(played.seqs, default=0)

    @rule(session=sessions, behind=st.integers(0, 2))
    def renew(self, session: str, behind: int) -> None:
        played = self.model.played[session]
        outcome = self._outcome(self._store.renew(session, played.epoch - behind))
        if self._refuses(played, behind, outcome):
            return
        if played.holder in self.model.leased and played.seat in (None, played.holder):
            played.state, played.seat = LIVE, played.holder

    @rule(session=sessions, behind=st.integers(0, 2))
    def release(self, session: str, behind: int) -> None:
        played = self.model.played[session]
        assert self._outcome(self._store.release(session, played.epoch - behind)) is None
        if played.state == LIVE and not behind:
            played.state = WAITING

    @rule(session=sessions)
    def end(self, session: str) -> None:
        assert self._outcome(self._store.end(session)) is None
        played = self.model.played[session]
        played.state, played.seat, played.snapshot = CLOSED, None, None

    @rule(session=sessions, behind=st.integers(0, 1))
    def keep(self, session: str, behind: int) -> None:
        played = self.model.played[session]
        snapshot = SnapshotRequest(session_id=session, epoch=max(0, played.epoch - behind))
        outcome = self._outcome(self._store.keep(snapshot))
        if not self._refuses(played, played.epoch - snapshot.epoch, outcome):
            played.snapshot = snapshot.epoch

    @rule(session=sessions)
    def recall(self, session: str) -> None:
        recalled = self._run(self._store.recall(session))
        kept = recalled.snapshot.epoch if recalled.HasField("snapshot") else None
        assert kept == self.model.played[session].snapshot

    @rule(session=sessions, seq=st.integers(1, 12))
    def push(self, session: str, seq: int) -> None:
        played = self.model.played[session]
        newest = max(played.seqs, default=0)
        outcome = self._outcome(self._store.push(session, control(seq)))
        if played.state == CLOSED:
            assert outcome is errors.SessionClosed
        elif seq <= newest:
            assert outcome == newest
        else:
            assert outcome is None
            played.seqs.append(seq)

    @rule(session=sessions, behind=st.integers(0, 1))
    def obeyed(self, session: str, behind: int) -> None:
        played = self.model.played[session]
        outcome = self._outcome(self._store.obeyed(session, played.epoch - behind, ControlReceipt(seq=1)))
        self._refuses(played, behind, outcome)

    @rule(session=sessions)
    def read_controls(self, session: str) -> None:
        played = self.model.played[session]
        outcome = self._outcome(self._store.read_controls(session, played.epoch, b"0-0"))
        if played.state == CLOSED:
            assert outcome is errors.SessionClosed
        else:
            assert [each.event.seq for each in outcome[1]] == played.seqs
        if played.state != CLOSED and played.epoch > 0:
            assert (
                self._outcome(self._store.read_controls(session, played.epoch - 1, b"0-0"))
                is errors.Superseded
            )

    @invariant()
    def seats_are_counted_right(self) -> None:
        async def counted() -> tuple[dict[str, str], dict[str, int], set[str]]:
            seat_of = await self._redis.hgetall(_key("seat_of"))
            taken = await self._redis.hgetall(_key("taken"))
            seats: list[Any] = await self._redis.zrangebyscore(_key("seats"), 2, "+inf")
            return (
                {_text(key): _text(value) for key, value in seat_of.items()},
                {_text(key): int(value) for key, value in taken.items()},
                {_text(each) for each in seats},
            )

        seat_of, taken, seats = self._run(counted())
        model = {session: played.seat for session, played in self.model.played.items() if played.seat}
        assert {session: replica for session, replica in seat_of.items() if session in seats} == model
        assert taken == {replica: [*seat_of.values()].count(replica) for replica in set(seat_of.values())}

    @invariant()
    def every_key_expires_and_has_the_tag(self) -> None:
        async def left_s() -> dict[str, int]:
            keys: list[Any] = await self._redis.keys()
            asked = self._redis.pipeline(transaction=False)
            for key in keys:
                asked.ttl(key)
            return dict(zip(map(_text, keys), await asked.execute(), strict=True))

        for key, left in self._run(left_s()).items():
            assert key.startswith("{livevideo}:")
            assert left > 0, key

    def _refuses(self, played: Played, behind: int, outcome: Any) -> bool:
        """Whether a seat of an older epoch, or of a session that has ended, was refused as it must be."""
        if played.state == CLOSED:
            assert outcome is errors.SessionClosed
        elif behind:
            assert outcome is errors.Superseded
        else:
            assert outcome is None
            return False
        return True

    def _run(self, call: Awaitable[T]) -> T:
        async def answered() -> T:
            return await call

        return self._runner.run(answered())

    def _outcome(self, call: Awaitable[Any]) -> Any:
        """What a call answers, or the class of its refusal."""
        try:
            return self._run(call)
        except errors.ServiceError as refusal:
            return type(refusal)


def _key(part: str) -> str:
    return next(key for key in scripts.placing_keys("road") if key.endswith(f":{part}"))


def _text(stored: bytes | str) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored
