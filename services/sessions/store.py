"""SessionStore: the only door to Redis. Every change of state is one script of `scripts`."""

import asyncio
import re
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.resume_pb2 import RecallResponse, SnapshotRequest
from livevideo.v1.session_pb2 import AnnounceRequest, FollowResponse, Model, Session, SessionState
from services.errors import StoreUnavailable, UnknownSession
from services.sessions import scripts, snapshots

_SESSION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}-[0-9a-f]{32}")
_DAY_MS = 86_400_000
_MODELS = "livevideo:models"  # names of all models that were announced within a day


@dataclass(frozen=True)
class StoreLimits:
    """How long things are kept in Redis, and how much."""

    waiting_seat_s: float = 30.0  # a seat is kept for a viewer who has not come yet
    live_seat_s: float = 3.0  # a seat outlives its last renewal
    away_seat_s: float = 30.0  # a seat is kept for a viewer who was there and may come back
    lease_s: float = 3.0  # a replica outlives its last announcement
    unclaimed_s: float = 120.0  # a session that nobody has watched yet
    idle_s: float = 3600.0  # a session after its last sign of life
    closed_s: float = 600.0  # a session after its end
    controls_kept: int = 4096  # newest controls of a session
    command_s: float = 1.0  # longest wait for an answer
    connections: int = 4096  # at most, for reads that wait (one a Push, one a Follow), and for all else


@dataclass(frozen=True)
class Attached:
    """What a stream starts with."""

    session: Session
    newest_receipt: bytes


class SessionStore:
    """Any number of stores may share one Redis. Sessions come back without their picture, but for `claim`.

    Each method raises StoreUnavailable when Redis does not answer within `command_s`; the next tries again.
    """

    def __init__(self, url: str, limits: StoreLimits | None = None, *, block_s: float = 1.0) -> None:
        """`block_s`: `read_controls` and `read_receipts` return with nothing after this long."""
        self.limits = limits or StoreLimits()
        self._url = url
        self._block_ms = round(block_s * 1000)
        self._redis = self._connect(self.limits.command_s)
        # A read that blocks is no failure until Redis has been silent for longer than it was told to block.
        self._readers = self._connect(self.limits.command_s + block_s)

    async def close(self) -> None:
        await self._redis.aclose()
        await self._readers.aclose()

    async def announce(self, request: AnnounceRequest) -> None:
        """Renews a replica's lease and says what room it has. Raises ReplicaTaken."""
        name = request.model.name
        await self._script(
            scripts.ANNOUNCE,
            [*scripts.placing_keys(name), scripts.model_key(name)],
            [
                request.replica,
                f"{request.slots} {request.address}",
                _ms(self.limits.lease_s),
                request.model.SerializeToString(),
                _DAY_MS,
            ],
            about=f"replica {request.replica}",
        )
        with _asking(self._url):
            if not await self._redis.sismember(_MODELS, name):  # a full Redis refuses to add what it has, too
                await self._redis.sadd(_MODELS, name)
            await self._redis.pexpire(_MODELS, _DAY_MS)

    async def models(self) -> tuple[dict[str, Model], set[str]]:
        """The models that live replicas announce, by name; and the names of all that are known."""
        with _asking(self._url):
            known = {_text(name) for name in await self._redis.smembers(_MODELS)}
            announced = [await self._redis.get(scripts.model_key(name)) for name in sorted(known)]
        models = [Model.FromString(cast(bytes, model)) for model in announced if model]
        return {model.name: model for model in models}, known

    async def open(self, record: Session) -> Session:
        """Seats a new session on the replica with the most room. Raises NoEngine, EngineFull."""
        session = Session()
        session.CopyFrom(record)
        session.session_id = f"{record.model.name}-{secrets.token_hex(16)}"
        image, session.image = session.image, b""
        replica, address = await self._script(
            scripts.OPEN,
            [*scripts.placing_keys(record.model.name), scripts.session_key(session.session_id, "session")],
            [
                session.session_id,
                session.SerializeToString(),
                image,
                _ms(self.limits.waiting_seat_s),
                _ms(self.limits.unclaimed_s),
            ],
            about=f"a session of {record.model.name}",
        )
        session.state = SessionState.SESSION_STATE_WAITING
        session.replica, session.replica_address = replica.decode(), address.decode()
        return session

    async def find(self, session_id: str) -> Session:
        """The session as it is now."""
        return _session(*await self._placed(scripts.FIND, session_id, [session_id]))

    async def place(
        self,
        session_id: str,
        *,
        lost_epoch: int = 0,
        without: str = "",
        is_planned: bool = False,
        viewer: str = "",
    ) -> Session:
        """Keeps a seat for the session and says where; see PlaceRequest. A seat that lives stays where it is.

        Raises Superseded, SessionClosed, NoEngine, EngineFull.
        """
        planned = "1" if is_planned else ""
        keep_ms = _ms(self.limits.waiting_seat_s)
        arguments = [session_id, lost_epoch, without, planned, keep_ms, viewer]
        return _session(*await self._placed(scripts.PLACE, session_id, arguments))

    async def claim(
        self, session_id: str, replica: str, after_epoch: int | None = None, viewer: str = ""
    ) -> Session:
        """Takes the seat for a replica: a new epoch. Raises SeatTaken while one is alive, EngineFull.

        after_epoch: raises Superseded where the session was claimed since; see scripts.CLAIM.
        """
        *found, image, seq = await self._placed(
            scripts.CLAIM,
            session_id,
            [
                session_id,
                replica,
                _ms(self.limits.live_seat_s),
                _ms(self.limits.idle_s),
                "" if after_epoch is None else after_epoch,
                viewer,
            ],
        )
        session = _session(*found)
        session.image = image or b""
        session.newest_seq = int(seq)
        return session

    async def renew(self, session_id: str, epoch: int) -> None:
        """Keeps a live seat alive. Raises Superseded, SessionClosed, UnknownSession."""
        await self._placed(
            scripts.RENEW,
            session_id,
            [session_id, epoch, _ms(self.limits.live_seat_s), _ms(self.limits.idle_s)],
        )

    async def release(self, session_id: str, epoch: int) -> None:
        """Gives up the seat, if it is still held in this epoch; it is kept a while for the viewer."""
        await self._placed(scripts.RELEASE, session_id, [session_id, epoch, _ms(self.limits.away_seat_s)])

    async def end(self, session_id: str) -> None:
        """Closes a session, which ends its streams everywhere. Closing it twice is no error."""
        await self._placed(scripts.CLOSE, session_id, [session_id, _ms(self.limits.closed_s)])

    async def attach(self, session_id: str) -> Attached:
        """What is needed to read a session's receipts from now on. Raises UnknownSession, SessionClosed."""
        record, newest = await self._of(scripts.ATTACH, session_id, ["session", "receipts"], [])
        return Attached(Session.FromString(record), newest)

    async def push(self, session_id: str, control: FollowResponse) -> int | None:
        """Stores a control; None. If its seq is not above the newest, stores nothing; that newest seq."""
        stored = await self._of(
            scripts.PUSH,
            session_id,
            ["session", "controls"],
            [
                control.event.seq,
                control.SerializeToString(),
                self.limits.controls_kept,
                _ms(self.limits.idle_s),
            ],
        )
        return int(stored[0]) if stored else None

    async def obeyed(self, session_id: str, epoch: int, receipt: ControlReceipt) -> None:
        """Publishes a receipt to everyone who pushes controls of this session. Raises Superseded."""
        await self._of(
            scripts.OBEYED,
            session_id,
            ["session", "receipts"],
            [epoch, receipt.SerializeToString(), self.limits.controls_kept, _ms(self.limits.idle_s)],
        )

    async def keep(self, snapshot: SnapshotRequest) -> None:
        """Keeps a snapshot instead of the one before, as long as the session. Raises Superseded."""
        await self._of(
            snapshots.KEEP,
            snapshot.session_id,
            ["session", "snapshot"],
            [snapshot.epoch, snapshot.SerializeToString(), _ms(self.limits.idle_s)],
        )

    async def recall(self, session_id: str) -> RecallResponse:
        """The newest snapshot, and what was obeyed since."""
        parts = [
            scripts.session_key(_checked(session_id), part) for part in ("snapshot", "controls", "receipts")
        ]
        with _asking(self._url):
            return await snapshots.recalled(self._redis, *parts)

    async def read_controls(
        self, session_id: str, epoch: int, after: bytes
    ) -> tuple[bytes, list[FollowResponse]]:
        """Controls after an entry (b"SEQ-0": after that seq) as soon as there are any, and the last entry.

        Raises Superseded when a newer epoch has claimed the session, SessionClosed when it has ended.
        """
        after, entries = await self._read(scripts.session_key(session_id, "controls"), after)
        controls = []
        for fields in entries:
            if b"closed" in fields:
                raise scripts.refusal("session_closed", f"session {session_id}")
            if int(fields.get(b"epoch", 0)) > epoch:
                raise scripts.refusal("superseded", f"session {session_id}")
            if b"control" in fields:
                controls.append(FollowResponse.FromString(fields[b"control"]))
        return after, controls

    async def read_receipts(self, session_id: str, after: bytes) -> tuple[bytes, list[ControlReceipt]]:
        """Obeyed receipts after an entry as soon as there are any, and the last entry. Or SessionClosed."""
        after, entries = await self._read(scripts.session_key(session_id, "receipts"), after)
        if any(b"closed" in fields for fields in entries):
            raise scripts.refusal("session_closed", f"session {session_id}")
        return after, [ControlReceipt.FromString(fields[b"receipt"]) for fields in entries]

    async def _read(self, stream: str, after: bytes) -> tuple[bytes, list[dict[bytes, bytes]]]:
        with _asking(self._url):
            found: Any = await self._readers.xread({stream: after}, count=256, block=self._block_ms)
        entries = found[0][1] if found else []
        return (entries[-1][0] if entries else after), [fields for _, fields in entries]

    async def _placed(self, script: str, session_id: str, arguments: list[Any]) -> list[Any]:
        model = _checked(session_id).rpartition("-")[0]
        parts = [
            scripts.session_key(session_id, part) for part in ("session", "controls", "receipts", "snapshot")
        ]
        return await self._script(
            script, [*scripts.placing_keys(model), *parts], arguments, about=f"session {session_id}"
        )

    async def _of(self, script: str, session_id: str, parts: list[str], arguments: list[Any]) -> list[Any]:
        keys = [scripts.session_key(_checked(session_id), part) for part in parts]
        return await self._script(script, keys, arguments, about=f"session {session_id}")

    async def _script(
        self, script: str, keys: list[str], arguments: list[Any], *, about: str = ""
    ) -> list[Any]:
        with _asking(self._url):
            answer: list[Any] = await self._redis.register_script(script)(keys, arguments)
        status, *found = answer
        if status not in (b"ok", b"old_seq"):
            raise scripts.refusal(status.decode(), about)
        return found

    def _connect(self, answer_s: float) -> Redis:
        return Redis.from_url(
            self._url,
            socket_timeout=answer_s,
            socket_connect_timeout=self.limits.command_s,
            max_connections=_affordable(self.limits.connections),
            # A control that was stored but not answered would be refused as old if it were sent again.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Around every use of Redis: its failures become StoreUnavailable, and no cancellation is lost."""
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    try:
        yield
    except (
        redis_errors.ConnectionError,
        redis_errors.TimeoutError,
        redis_errors.ReadOnlyError,
        redis_errors.OutOfMemoryError,
        OSError,
    ) as error:
        where = url.rpartition("@")[2]  # never the password
        raise StoreUnavailable(f"Redis at {where} does not serve: {error}", retry_after_s=1.0) from error
    # redis-py 8.1 swallows some cancellations that come while it opens a connection; a stream that loops over
    # reads would then run for ever.
    if task and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


def _checked(session_id: str) -> str:
    if not _SESSION_ID.fullmatch(session_id):
        raise UnknownSession(f"session {session_id[:120]!r} is not known; open one first")
    return session_id


def _session(record: bytes, state: bytes, epoch: bytes, replica: bytes, address: bytes) -> Session:
    session = Session.FromString(record)
    session.state = cast("SessionState.ValueType", int(state))
    session.epoch = int(epoch)
    session.replica, session.replica_address = replica.decode(), address.decode()
    return session


def _affordable(connections: int) -> int:
    """So many, or fewer: two pools leave everything else at least half of the files that may be open."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if open_files == resource.RLIM_INFINITY else max(1, min(connections, open_files // 4))


def _text(stored: bytes | str) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
