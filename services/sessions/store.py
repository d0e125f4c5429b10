"""SessionStore: the only door to Redis. Every change of state is one script of `scripts`."""

import resource
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.log_pb2 import Full, LogEntry, ReadResponse
from livevideo.v1.resume_pb2 import RecallResponse, SnapshotRequest
from livevideo.v1.session_pb2 import AnnounceRequest, FollowResponse, Model, Session, SessionState
from services.endings import ended
from services.errors import StoreUnavailable
from services.sessions import accounts, log_scripts, queue, refusals, scripts, snapshots, tenancy
from services.sessions.connection import Connection, RedisAccess, asking
from services.sessions.keys import checked, hashed, new_session_id, new_token
from services.sessions.tenancy import Entrant

_DAY_MS = 86_400_000
# What these have changed is told to somebody, who goes on from there.
_ACKNOWLEDGED = frozenset(
    {queue.ADMIT, scripts.CLAIM, scripts.PUSH, tenancy.CLOSE}
    | {accounts.ADD, accounts.CHANGE, accounts.ROTATE, accounts.REVOKE}
)


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
    token_s: float = 86_400.0  # a session's token, where its tenant's quotas set the session no end
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

    def __init__(
        self,
        url: str,
        limits: StoreLimits | None = None,
        *,
        block_s: float = 1.0,
        access: RedisAccess | None = None,
    ) -> None:
        """`block_s`: `read_controls` and `read_receipts` return with nothing after this long.

        Raises BadSetting for a URL that is none.
        """
        self.limits = limits or StoreLimits()
        self._url = url
        self._access = access or RedisAccess()
        self._block_ms = round(block_s * 1000)
        self._commands = self._connect(self.limits.command_s)
        # A read that blocks is no failure until Redis has been silent for longer than it was told to block.
        self._readers = self._connect(self.limits.command_s + block_s)

    async def close(self) -> None:
        await self._commands.close()
        await self._readers.close()

    async def check(self) -> None:
        """Raises StoreUnavailable where Redis does not answer, or does not let us do what is needed."""
        await self.script(scripts.CHECK, [scripts.MODELS], [])

    async def announce(self, request: AnnounceRequest) -> None:
        """Renews a replica's lease and says what room it has. Raises ReplicaTaken."""
        name = request.model.name
        await self.script(
            scripts.ANNOUNCE,
            [*scripts.placing_keys(name), scripts.model_key(name), scripts.MODELS],
            [
                request.replica,
                f"{request.slots} {request.address}",
                _ms(self.limits.lease_s),
                request.model.SerializeToString(),
                _DAY_MS,
                name,
                _ms(max(self.limits.waiting_seat_s, self.limits.live_seat_s, self.limits.away_seat_s)),
            ],
            about=f"replica {request.replica}",
        )

    async def models(self) -> tuple[dict[str, Model], set[str]]:
        """The models that live replicas announce, by name; and the names of all that are known."""
        with asking(self._url):
            names: list[Any] = await self._commands.redis.zrange(scripts.MODELS, 0, -1)
            known = {_text(name) for name in names}
            announced = (
                await self._commands.redis.mget([scripts.model_key(name) for name in known]) if known else []
            )
        models = [Model.FromString(cast(bytes, model)) for model in announced if model]
        return {model.name: model for model in models}, known

    async def open(self, record: Session, entrant: Entrant | None = None, session_id: str = "") -> Session:
        """Seats a new session on the replica with the most room; `session_id` is its place in the queue.

        Raises NoEngine, EngineFull, Unauthenticated, QuotaExceeded.
        """
        entrant = entrant or Entrant(tenant=record.tenant or "default")
        session = Session()
        session.CopyFrom(record)
        session.session_id = session_id or new_session_id(record.model.name)
        image, session.image = session.image, b""
        token = new_token() if entrant.key_id else ""
        replica, address = await self.script(
            queue.ADMIT,
            [*scripts.keys(session.session_id), *tenancy.keys(entrant.tenant, record.model.name)],
            [
                session.session_id,
                session.SerializeToString(),
                image,
                _ms(self.limits.waiting_seat_s),
                _ms(self.limits.unclaimed_s),
                entrant.tenant,
                entrant.key_id,
                hashed(token),
                _ms(entrant.quotas.session_s or self.limits.token_s),
            ],
            about=f"a session of {record.model.name}",
        )
        session.state = SessionState.SESSION_STATE_WAITING
        session.replica, session.replica_address, session.token = replica.decode(), address.decode(), token
        return session

    async def find(self, session_id: str) -> Session:
        """The session as it is now."""
        return _session(*await self._placed(scripts.FIND, session_id, [session_id]))

    async def place(
        self, session_id: str, *, lost_epoch: int = 0, without: str = "", is_planned: bool = False
    ) -> Session:
        """Keeps a seat for the session and says where; see PlaceRequest. A seat that lives stays where it is.

        Raises Superseded, SessionClosed, NoEngine, EngineFull.
        """
        planned = "1" if is_planned else ""
        keep_ms = _ms(self.limits.waiting_seat_s)
        arguments = [session_id, lost_epoch, without, planned, keep_ms]
        return _session(*await self._placed(scripts.PLACE, session_id, arguments))

    async def claim(self, session_id: str, replica: str, after_epoch: int | None = None) -> Session:
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

    async def release(self, session_id: str, epoch: int, keep_s: float | None = None) -> None:
        """Gives up the seat, if it is still held in this epoch; it is kept for the viewer: `away_seat_s`."""
        kept_s = self.limits.away_seat_s if keep_s is None else keep_s
        await self._placed(scripts.RELEASE, session_id, [session_id, epoch, _ms(kept_s)])

    async def end(self, session_id: str, tenant: str = "default", why: str = "closed") -> None:
        """Closes a session, which ends its streams everywhere. Closing it twice is no error."""
        of_tenant = tenancy.keys(tenant, scripts.model_of(session_id))
        await self._placed(tenancy.CLOSE, session_id, [session_id, _ms(self.limits.closed_s), why], of_tenant)

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

    async def log(self, entry: LogEntry, *, kept_s: float, tenant_bytes: int) -> tuple[bool, list[str]]:
        """Adds to a session's log. Whether there was room, and whose logs were dropped to make some.

        Raises UnknownSession.
        """
        outcome, *dropped = await self.script(
            log_scripts.APPEND,
            log_scripts.keys(checked(entry.session_id), entry.tenant),
            [
                entry.session_id,
                entry.SerializeToString(),
                _ms(kept_s),
                tenant_bytes,
                log_scripts.log_key_pattern(),
            ],
            about=f"session {entry.session_id}",
        )
        return outcome == b"kept", [_text(session_id) for session_id in dropped]

    async def read_log(self, session_id: str) -> AsyncIterator[ReadResponse]:
        """The session as it was opened, then its log. Raises UnknownSession where there is none."""
        after, most = "-", 64
        while True:
            newest, *entries = await self._of(log_scripts.READ, session_id, ["log"], [after, most])
            for words in entries:
                fields = dict(zip(words[::2], words[1::2], strict=True))
                if b"record" in fields:
                    session = Session.FromString(fields[b"record"])
                    session.image = fields[b"image"]
                    yield ReadResponse(session=session)
                if b"entry" in fields:
                    yield ReadResponse(entry=LogEntry.FromString(fields[b"entry"]))
                if b"full" in fields:
                    yield ReadResponse(full=Full())
            if len(entries) < most:
                return
            after = f"({_text(newest)}"

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
            scripts.session_key(checked(session_id), part) for part in ("snapshot", "controls", "receipts")
        ]
        with asking(self._url):
            return await snapshots.recalled(self._commands.redis, *parts)

    async def read_controls(
        self, session_id: str, epoch: int, after: bytes
    ) -> tuple[bytes, list[FollowResponse]]:
        """Controls after an entry (b"SEQ-0": after that seq) as soon as there are any, and the last entry.

        Raises Superseded when a newer epoch has claimed the session, SessionClosed when it has ended.
        """
        after, entries = await self.read(scripts.session_key(session_id, "controls"), after)
        controls = []
        for fields in entries:
            if b"closed" in fields:
                raise ended(f"session {session_id}", fields[b"closed"].decode())
            if int(fields.get(b"epoch", 0)) > epoch:
                raise refusals.refusal("superseded", f"session {session_id}")
            if b"control" in fields:
                controls.append(FollowResponse.FromString(fields[b"control"]))
        return after, controls

    async def read_receipts(self, session_id: str, after: bytes) -> tuple[bytes, list[ControlReceipt]]:
        """Obeyed receipts after an entry as soon as there are any, and the last entry. Or SessionClosed."""
        after, entries = await self.read(scripts.session_key(session_id, "receipts"), after)
        for fields in entries:
            if b"closed" in fields:
                raise ended(f"session {session_id}", fields[b"closed"].decode())
        return after, [ControlReceipt.FromString(each[b"receipt"]) for each in entries if b"receipt" in each]

    async def read(self, stream: str, after: bytes) -> tuple[bytes, list[dict[bytes, bytes]]]:
        """Entries of a stream after one of them, as soon as there are any, and the last of them."""
        with asking(self._url):
            found: Any = await self._readers.redis.xread({stream: after}, count=256, block=self._block_ms)
        entries = found[0][1] if found else []
        return (entries[-1][0] if entries else after), [fields for _, fields in entries]

    async def _placed(
        self, script: str, session_id: str, arguments: list[Any], more_keys: Sequence[str] = ()
    ) -> list[Any]:
        keys = [*scripts.keys(checked(session_id)), *more_keys]
        return await self.script(script, keys, arguments, about=f"session {session_id}")

    async def _of(self, script: str, session_id: str, parts: list[str], arguments: list[Any]) -> list[Any]:
        keys = [scripts.session_key(checked(session_id), part) for part in parts]
        return await self.script(script, keys, arguments, about=f"session {session_id}")

    async def script(
        self, script: str, keys: list[str], arguments: list[Any], *, about: str = ""
    ) -> list[Any]:
        copies = self._access.redis_copies if script in _ACKNOWLEDGED else 0
        with asking(self._url):
            if copies:
                status, *found = await self._copied(script, keys, arguments, copies)
            else:
                status, *found = await self._commands.redis.register_script(script)(keys, arguments)
        if status not in (b"ok", b"old_seq"):
            raise refusals.refusal(status.decode(), about, found)
        return found

    async def _copied(self, script: str, keys: list[str], arguments: list[Any], copies: int) -> list[Any]:
        """What the script answers, once so many replicas have it too."""
        asked: Any = self._commands.redis.pipeline(transaction=False)
        asked.eval(script, len(keys), *keys, *arguments)
        asked.execute_command("WAIT", copies, _ms(self.limits.command_s / 2))
        answer, copied = await asked.execute()
        if copied < copies and answer[0] == b"ok":
            raise StoreUnavailable(
                f"{copied} replicas of Redis have it in time, and {copies} must; try again soon",
                retry_after_s=1.0,
            )
        found: list[Any] = answer
        return found

    def _connect(self, answer_s: float) -> Connection:
        return Connection(
            self._url,
            self._access,
            answer_s=answer_s,
            connect_s=self.limits.command_s,
            connections=_affordable(self.limits.connections),
        )


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
