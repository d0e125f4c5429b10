"""Every way in which a service says no, as an exception with a reason and a time to come again."""

import math
from typing import ClassVar

import grpc

REASON_KEY = "reason"
RETRY_KEY = "retry-after-s"
CERTIFICATE_SIGNS = ("handshake", "certificate", "SSL_ERROR")


class Refused(Exception):
    """A call was refused. Its message says what was asked, what is so, and what to do.

    reason: a short constant, e.g. "engine_full". retry_after_s: when to try again; None: it would not help.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        again = "" if self.retry_after_s is None else f"; try again in {self.retry_after_s:g} s"
        return f"{self.reason}: {self.message}{again}"


class BadRequest(Refused):
    """A value that was sent cannot be."""


class NotAllowed(Refused):
    """The key or token is missing, or good for something else."""


class NotKnown(Refused):
    """There is no such session or model, or it is not one's own."""


class NoRoom(Refused):
    """All seats are taken, or the tenant's quota is used up."""


class SeatTaken(Refused):
    """The session is being watched already; it has one viewer."""


class Unavailable(Refused):
    """Nobody answers, or who answers lacks something that passes."""


class BadCertificate(Unavailable):
    """Who answers does not show a certificate that is believed, or shows none."""


class SessionEnded(Refused):
    """The session has ended. Where this program has closed it, its controls alone say so."""

    REASONS: ClassVar[tuple[str, ...]] = ("session_closed", "preempted", "time_up", "revoked")


def ended(why: str) -> SessionEnded:
    """By what `Session.ended` says of it."""
    if why in ("time_up", "idle", "minutes_used"):
        reason = "time_up"
    else:
        reason = why if why in SessionEnded.REASONS else "session_closed"
    return SessionEnded(reason, f"the session has ended ({why or 'closed'}); open another one")


class ControlRefused(Refused):
    """One control was refused, and changes nothing."""


_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.NOT_FOUND: NotKnown,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NoRoom,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}


def refusal_of(error: grpc.aio.AioRpcError) -> Refused:
    """What the call's end says."""
    message, retry_after_s = error.details() or "", retry_told(error)
    reason = told(error, REASON_KEY)
    if reason in SessionEnded.REASONS:
        return SessionEnded(reason, message, retry_after_s)
    if reason == "seat_taken":
        return SeatTaken(reason, message, retry_after_s)
    if not reason and error.code() is grpc.StatusCode.UNAVAILABLE:
        if any(sign in message for sign in CERTIFICATE_SIGNS):
            wanted = "give the file of who signed it (ca_file), and call it by a name that it carries"
            said = f"who answers there shows no certificate that is believed; {wanted} ({message})"
            return BadCertificate("bad_certificate", said)
        return Unavailable("no_answer", f"nobody answers there ({message})", 1.0)
    if not reason and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable("no_answer", "no answer came in time", 1.0)
    return _KINDS.get(error.code(), Refused)(reason or error.code().name.lower(), message, retry_after_s)


def told(error: grpc.aio.AioRpcError, name: str) -> str:
    """What a refusal says beside its sentence, from the trailing metadata; empty where it does not."""
    return str(dict(error.trailing_metadata() or ()).get(name, ""))


def retry_told(error: grpc.aio.AioRpcError) -> float | None:
    """When to try again, where the refusal says so."""
    try:
        retry_after_s = float(told(error, RETRY_KEY) or "nan")
    except ValueError:
        return None
    return retry_after_s if math.isfinite(retry_after_s) else None
