"""TenantStore: tenants, their keys and what they use, in the same Redis as the sessions."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from livevideo.v1.admin_pb2 import ApiKey, NewKey, Quotas, Tenant, Usage
from livevideo.v1.session_pb2 import Notice
from services.endings import ended
from services.errors import UnknownSession
from services.sessions import accounts, keys, queue, refusals, scripts, tenancy
from services.sessions.store import SessionStore
from services.sessions.tenancy import Entrant

_KEPT_S = 2 * 86_400.0  # a key that has expired
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Fields of Quotas: the name under which each is stored, and how much is stored for one.
_STORED = {
    "priority": ("priority", 1),
    "sessions": ("sessions", 1),
    "minutes_per_day": ("day_ms", 60_000),
    "pixels": ("pixels", 1),
    "image_bytes": ("image_bytes", 1),
    "controls_per_s": ("controls_per_s", 1),
    "idle_s": ("idle_ms", 1000),
    "session_s": ("session_ms", 1000),
}


@dataclass(frozen=True)
class Holder:
    """Whose a session is, and what its token looks like; empty where it was opened without a key."""

    token_hash: str
    token_good_s: float
    tenant: str
    key_id: str
    ended: str
    notice: Notice | None


class TenantStore:
    """Speaks to Redis through the store of the sessions, and fails as it does."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store

    async def entrant(self, secret: str) -> Entrant:
        """Whoever has this key. Without one: "default", unless there are tenants. Raises Unauthenticated."""
        tenant, key_id = keys.names_in(secret)
        count, *found = await self._account(accounts.FIND_KEY, tenant, key_id)
        if not count:
            return Entrant()
        hashed, expires_ms, now_ms, *fields = found or (b"-", b"0", b"0")
        is_right = keys.is_of(secret, hashed.decode())
        is_in_time = int(expires_ms) == 0 or int(now_ms) < int(expires_ms)
        if not (is_right and is_in_time):
            raise refusals.refusal("unauthenticated", "")
        return Entrant(tenant, key_id, _quotas(_fields(fields)))

    async def holder(self, session_id: str) -> Holder:
        """Whose a session is; nobody's where it is not known."""
        found = await self._account(
            accounts.HOLDER, "", more_keys=[scripts.session_key(keys.checked(session_id), "session")]
        )
        token_hash, good_ms, tenant, key_id, ended, notice = found
        return Holder(
            token_hash=token_hash.decode(),
            token_good_s=good_ms / 1000,
            tenant=tenant.decode(),
            key_id=key_id.decode(),
            ended=ended.decode(),
            notice=_notice(notice) if notice else None,
        )

    async def add(self, name: str, quotas: Quotas, key_expires_s: float) -> NewKey:
        """Raises TenantExists."""
        made = keys.new_key(name)
        times = await self._account(
            accounts.ADD, name, made.key_id, keys.hashed(made.key), _ms(key_expires_s), *_stored(quotas)
        )
        return _new_key(made, times)

    async def change(self, name: str, quotas: Quotas) -> None:
        """Raises UnknownTenant."""
        await self._account(accounts.CHANGE, name, *_stored(quotas))

    async def rotate(self, name: str, grace_s: float, expires_s: float) -> NewKey:
        """A new key; the others end after `grace_s`. Raises UnknownTenant, also for one that was revoked."""
        made = keys.new_key(name)
        arguments = (made.key_id, keys.hashed(made.key), _ms(expires_s), _ms(grace_s), _ms(_KEPT_S))
        return _new_key(made, await self._account(accounts.ROTATE, name, *arguments))

    async def revoke(self, name: str, key_id: str = "") -> int:
        """Ends a key, or all of them, and the sessions that it opened; how many those were.

        Where this breaks off between the key and the last session, `meter` ends the others within a second.
        """
        open_key = tenancy.tenant_key(name, "open")
        found = await self._account(accounts.REVOKE, name, key_id, more_keys=[open_key])
        count = 0
        for session_id in (each.decode() for each in found):
            holder = await self.holder(session_id)
            if holder.ended or (key_id and holder.key_id != key_id):
                continue
            try:
                await self._store.end(session_id, name, "revoked")
                count += 1
            except UnknownSession:  # it has expired meanwhile
                continue
        return count

    async def describe(self, name: str) -> Tenant:
        """Without its keys. Raises UnknownTenant."""
        open_key = tenancy.tenant_key(name, "open")
        sessions, *found = await self._account(accounts.DESCRIBE, name, more_keys=[open_key])
        fields = _fields(found)
        return Tenant(
            name=name,
            quotas=_quotas(fields),
            added_at_s=int(fields["added_ms"]) / 1000,
            revoked_at_s=int(fields.get("revoked_ms", 0)) / 1000,
            sessions=sessions,
        )

    async def all(self) -> list[Tenant]:
        """By name."""
        tenants = []
        for name in sorted(each.decode() for each in await self._account(accounts.LIST, "")):
            tenant = await self.describe(name)
            found = await self._account(accounts.LIST_KEYS, name)
            for key_id, made_ms, expires_ms in zip(found[::3], found[1::3], found[2::3], strict=True):
                tenant.keys.append(_api_key(key_id.decode(), made_ms, expires_ms))
            tenants.append(tenant)
        return tenants

    async def usage(self, name: str, days: int) -> list[Usage]:
        """Of the last days, the oldest first, but for those without any. Raises UnknownTenant."""
        used = await self._account(accounts.USAGE, name, days, more_keys=[tenancy.tenant_key(name, "usage")])
        rows = zip(used[::4], used[1::4], used[2::4], used[3::4], strict=True)
        return [
            Usage(
                day=f"{_EPOCH + timedelta(days=day):%Y-%m-%d}",
                session_s=ms / 1000,
                latents=latents,
                sessions=sessions,
            )
            for day, ms, latents, sessions in rows
        ]

    async def meter(
        self, session_id: str, tenant: str, epoch: int, latents: int, *, keep_s: float, notice_s: float
    ) -> None:
        """Counts what a session has used in this epoch: `latents` is how many it has by now.

        keep_s: how long it goes on to count as one of its tenant's; notice_s: how long before its end that is
        said. Raises what ends it: SessionClosed, QuotaExceeded where a new epoch is one too many, Superseded.
        """
        limits = self._store.limits
        arguments = [session_id, epoch, latents, _ms(limits.closed_s), _ms(keep_s), _ms(notice_s)]
        await self._placed(tenancy.METER, session_id, tenant, arguments)

    async def wait(
        self, session_id: str, entrant: Entrant, *, alive_s: float, most: int, most_of_tenant: int
    ) -> tuple[int, float]:
        """The place in the queue, and how long it will take, 0 if unknown. Place 0: it is time to open it.

        alive_s: the place is lost if this is not asked again within that time. most, most_of_tenant: who may
        wait. Raises QueueFull, QuotaExceeded, Unauthenticated.
        """
        arguments = [session_id, entrant.tenant, entrant.key_id, _ms(alive_s), most, most_of_tenant]
        position, expected_ms = await self._placed(queue.WAIT, session_id, entrant.tenant, arguments)
        return position, expected_ms / 1000

    async def quit(self, session_id: str, entrant: Entrant) -> None:
        """Gives up the place in the queue, if there is one."""
        await self._placed(queue.QUIT, session_id, entrant.tenant, [session_id])

    async def notices(self, session_id: str, after: bytes) -> AsyncGenerator[Notice, None]:
        """Notices behind an entry of the receipts, as they come. Raises SessionClosed, which says why."""
        while True:
            after, entries = await self._store.door.read(scripts.session_key(session_id, "receipts"), after)
            for fields in entries:
                if b"closed" in fields:
                    raise ended(f"session {session_id}", fields[b"closed"].decode())
                if b"notice" in fields:
                    yield _notice(fields[b"notice"])

    async def _account(
        self, script: str, name: str, *arguments: Any, more_keys: list[str] | None = None
    ) -> Any:
        script_keys = [*accounts.keys(name), *(more_keys or [])]
        return await self._store.door.run(script, script_keys, [name, *arguments], about=f"tenant {name}")

    async def _placed(self, script: str, session_id: str, tenant: str, arguments: list[Any]) -> Any:
        script_keys = [*scripts.keys(session_id), *tenancy.keys(tenant, scripts.model_of(session_id))]
        return await self._store.door.run(script, script_keys, arguments, about=f"session {session_id}")


def _stored(quotas: Quotas) -> list[str]:
    given = Quotas()
    given.CopyFrom(quotas)
    given.priority = given.priority or tenancy.DEFAULT_PRIORITY
    stored = []
    for field, (name, unit) in _STORED.items():
        value = getattr(given, field) * unit
        stored += [name, f"{value:g}" if field == "controls_per_s" else f"{round(value)}"]
    return stored


def _fields(found: Sequence[bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in zip(found[::2], found[1::2], strict=True)}


def _quotas(fields: Mapping[str, str]) -> Quotas:
    quotas = Quotas()
    for field, (name, unit) in _STORED.items():
        kind = type(getattr(quotas, field))
        setattr(quotas, field, kind(float(fields[name]) / unit))
    return quotas


def _notice(stored: bytes) -> Notice:
    reason, _, ends_ms = stored.decode().partition(" ")
    return Notice(reason=reason, ends_at_s=float(ends_ms) / 1000)


def _new_key(made: keys.Made, times: list[bytes]) -> NewKey:
    return NewKey(key=made.key, about=_api_key(made.key_id, *times))


def _api_key(key_id: str, made_ms: bytes, expires_ms: bytes) -> ApiKey:
    return ApiKey(key_id=key_id, made_at_s=int(made_ms) / 1000, expires_at_s=int(expires_ms) / 1000)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
