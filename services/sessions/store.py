"""SessionStore: sessions in Redis. Every change of state is one script."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from livevideo.v1.control_pb2 import ControlReceipt
from livevideo.v1.resume_pb2 import RecallResponse, SnapshotRequest
from livevideo.v1.session_pb2 import AnnounceRequest, FollowResponse, Model, Session, SessionState
from services.endings import ended
from services.sessions import accounts, placing, queue, refusals, scripts, snapshots, tenancy
from services.sessions.connection import RedisAccess, asking
from services.sessions.door import Door
from services.sessions.keys import checked, hashed, new_session_id, new_token
from services.sessions.tenancy import Entrant

_DAY_MS = 86_400_000
# What these have changed is told to somebody, who goes on from there.
_ACKNOWLEDGED = frozenset(
    {queue.ADMIT, placing.CLAIM, scripts.PUSH, tenancy.CLOSE}
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
    prompt: FollowResponse | None  # the newest control that carries one; None: none is known


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
        self.door = Door(
            url,
            access or RedisAccess(),
            command_s=self.limits.command_s,
            block_s=block_s,
            connections=self.limits.connections,
            acknowledged=_ACKNOWLEDGED,
        )

    async def close(self) -> None:
        await self.door.close()

    async def check(self) -> None:
        """Raises StoreUnavailable where Redis does not answer, or does not let us do what is needed."""
        await self.door.run(scripts.CHECK, [scripts.MODELS], [])

    async def announce(self, request: AnnounceRequest) -> None:
        """Renews a replica's lease and says what room it has. Raises ReplicaTaken."""
        name = request.model.name
        await self.door.run(
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
        with asking(self.door.url):
            names: list[Any] = await self.door.redis.zrange(scripts.MODELS, 0, -1)
            known = {_text(name) for name in names}
            announced = (
                await self.door.redis.mget([scripts.model_key(name) for name in known]) if known else []
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
        replica, address = await self.door.run(
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
        *found, seq = await self._placed(placing.FIND, session_id, [session_id])
        session = _session(*found)
        session.newest_seq = int(seq)
        return session

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
        return _session(*await self._placed(placing.PLACE, session_id, arguments))

    async def claim(
        self, session_id: str, replica: str, after_epoch: int | None = None, viewer: str = ""
    ) -> Session:
        """Takes the seat for a replica: a new epoch. Raises SeatTaken while one is alive, EngineFull.

        after_epoch: raises Superseded where the session was claimed since; see placing.CLAIM.
        """
        *found, image, seq = await self._placed(
            placing.CLAIM,
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
            placing.RENEW,
            session_id,
            [session_id, epoch, _ms(self.limits.live_seat_s), _ms(self.limits.idle_s)],
        )

    async def release(self, session_id: str, epoch: int, keep_s: float | None = None) -> None:
        """Gives up the seat, if it is still held in this epoch; it is kept for the viewer: `away_seat_s`."""
        kept_s = self.limits.away_seat_s if keep_s is None else keep_s
        await self._placed(placing.RELEASE, session_id, [session_id, epoch, _ms(kept_s)])

    async def end(self, session_id: str, tenant: str = "default", why: str = "closed") -> None:
        """Closes a session, which ends its streams everywhere. Closing it twice is no error."""
        of_tenant = tenancy.keys(tenant, scripts.model_of(session_id))
        await self._placed(tenancy.CLOSE, session_id, [session_id, _ms(self.limits.closed_s), why], of_tenant)

    async def attach(self, session_id: str) -> Attached:
        """What is needed to read a session's receipts from now on. Raises UnknownSession, SessionClosed."""
        record, newest, prompt = await self._of(scripts.ATTACH, session_id, ["session", "receipts"], [])
        return Attached(
            Session.FromString(record), newest, FollowResponse.FromString(prompt) if prompt else None
        )

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
                "1" if control.event.HasField("prompt") else "",
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
        kept = ("session", "snapshot", "controls", "receipts")
        parts = [scripts.session_key(checked(session_id), part) for part in kept]
        with asking(self.door.url):
            return await snapshots.recalled(self.door.redis, *parts)

    async def read_controls(
        self, session_id: str, epoch: int, after: bytes
    ) -> tuple[bytes, list[FollowResponse]]:
        """Controls after an entry (b"SEQ-0": after that seq) as soon as there are any, and the last entry.

        Raises Superseded when a newer epoch has claimed the session, SessionClosed when it has ended.
        """
        after, entries = await self.door.read(scripts.session_key(session_id, "controls"), after)
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
        after, entries = await self.door.read(scripts.session_key(session_id, "receipts"), after)
        for fields in entries:
            if b"closed" in fields:
                raise ended(f"session {session_id}", fields[b"closed"].decode())
        return after, [ControlReceipt.FromString(each[b"receipt"]) for each in entries if b"receipt" in each]

    async def _placed(
        self, script: str, session_id: str, arguments: list[Any], more_keys: Sequence[str] = ()
    ) -> list[Any]:
        keys = [*scripts.keys(checked(session_id)), *more_keys]
        return await self.door.run(script, keys, arguments, about=f"session {session_id}")

    async def _of(self, script: str, session_id: str, parts: list[str], arguments: list[Any]) -> list[Any]:
        keys = [scripts.session_key(checked(session_id), part) for part in parts]
        return await self.door.run(script, keys, arguments, about=f"session {session_id}")


def _session(record: bytes, state: bytes, epoch: bytes, replica: bytes, address: bytes) -> Session:
    session = Session.FromString(record)
    session.state = cast("SessionState.ValueType", int(state))
    session.epoch = int(epoch)
    session.replica, session.replica_address = replica.decode(), address.decode()
    return session


def _text(stored: bytes | str) -> str:
    return stored.decode() if isinstance(stored, bytes) else stored


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
