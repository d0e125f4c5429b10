"""What the statuses that scripts answer mean, as refusals."""

from collections.abc import Sequence
from typing import TypedDict

from services.endings import ended
from services.errors import (
    EngineFull,
    NoEngine,
    QueueFull,
    QuotaExceeded,
    ReplicaTaken,
    SeatTaken,
    ServiceError,
    Superseded,
    TenantExists,
    Unauthenticated,
    UnknownSession,
    UnknownTenant,
)


def refusal(status: str, about: str, found: Sequence[bytes | int] = ()) -> ServiceError:
    """What a status other than ok means; `about` is what was asked for, as the message should name it."""
    match status:
        case "unknown_session":
            return UnknownSession(f"{about} is not known: it has expired, or is not yours; open a new one")
        case "session_closed":
            return ended(about, _text(found[0]) if found else "")
        case "unauthenticated":
            return Unauthenticated("the API key is not good, or none came; ask who runs this service for one")
        case "quota":
            return _over_quota(*(_text(each) for each in found))
        case "tenant_exists":
            return TenantExists(f"{about} is there already; change its quotas, or choose another name")
        case "unknown_tenant":
            return UnknownTenant(
                f"{about} is not known, or was revoked; list the tenants to see which there are"
            )
        case "unknown_key":
            return UnknownTenant(f"{about} has no such key; list the tenants to see which it has")
        case "queue_full":
            return QueueFull(f"{about} finds no room in the queue; try again later", **_queue(found, 30.0))
        case "replica_taken":
            return ReplicaTaken(f"{about} is the name of another engine that lives; set another REPLICA")
        case "seat_taken":
            return SeatTaken(f"{about} has a viewer already; close that one, or open another session")
        case "superseded":
            return Superseded(f"{about} was claimed in a newer epoch; let go of it")
        case "engine_full":
            return EngineFull(f"{about} finds every slot taken; try again soon", **_queue(found, 5.0))
        case "no_engine":
            return NoEngine(f"{about} finds no live engine; try again soon", retry_after_s=2.0)
    raise ValueError(f"a script answered {status!r}, which no refusal is made for; add it here")


def _over_quota(tenant: str, quota: str, most: str, retry_ms: str) -> QuotaExceeded:
    retry_after_s = int(retry_ms) / 1000 or 5.0
    if quota == "sessions":
        said = f"has {most} sessions already, as many as it may have at once; end one, or come again"
    else:
        said = f"has used its {int(most) / 60_000:g} minutes of today; come again tomorrow (UTC)"
    return QuotaExceeded(tenant, quota, said, retry_after_s=retry_after_s)


class _Queued(TypedDict):
    retry_after_s: float
    facts: dict[str, str]


def _queue(found: Sequence[bytes | int], retry_after_s: float) -> _Queued:
    """How long the queue is, where that was found out: the place that one more would get."""
    if len(found) < 2:
        return _Queued(retry_after_s=retry_after_s, facts={})
    position, expected_s = int(found[0]), int(found[1]) / 1000
    facts = {"position": str(position)} | ({"expected_wait_s": f"{expected_s:g}"} if expected_s else {})
    return _Queued(retry_after_s=min(max(expected_s, retry_after_s), 60.0), facts=facts)


def _text(found: bytes | int) -> str:
    return found.decode() if isinstance(found, bytes) else str(found)
