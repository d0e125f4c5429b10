"""What became of a viewing, as players would call it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from livevideo.v1.session_pb2 import Session
from services import errors, telemetry

# What viewers do to themselves, or another of their own does to them.
_LEFT = (
    errors.BadRequest,
    errors.CallerNotAllowed,
    errors.QuotaExceeded,
    errors.SeatTaken,
    errors.Superseded,
    errors.Unauthenticated,
    errors.UnknownSession,
    errors.ViewerGone,
    asyncio.CancelledError,
    GeneratorExit,
)


def outcome(error: BaseException | None) -> str:
    """`left`, `ended`, `moved` or `failed`, by what ended the call; None: it ran to its end."""
    if error is None or isinstance(error, errors.SessionClosed):
        return "ended"
    if isinstance(error, errors.ServiceStopping):
        return "moved"
    if isinstance(error, grpc.aio.AioRpcError):
        return "left" if error.code() == grpc.StatusCode.CANCELLED else "failed"
    return "left" if isinstance(error, _LEFT) else "failed"


@contextmanager
def viewing(session: Session) -> Iterator[None]:
    """Counts how it ends."""
    became = outcome(None)
    try:
        yield
    except BaseException as error:
        became = outcome(error)
        raise
    finally:
        tenant = telemetry.tenant_label(session.tenant)
        telemetry.SESSION_OUTCOMES.labels(tenant, session.model.name, became).inc()
