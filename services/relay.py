"""A refusal that another service sent, as the class that it was there."""

from collections.abc import Iterator

import grpc

from livevideo_client.refusals import REASON_KEY, retry_told
from services import details
from services.errors import PeerUnavailable, ServiceError


def from_status(error: grpc.aio.AioRpcError) -> ServiceError | None:
    """The refusal that a service sent, or PeerUnavailable when none answered; None for any other failure."""
    trailing = error.trailing_metadata() or ()
    sent = {key: value for key, value in trailing if isinstance(value, str)}
    rich = next((value for _, value in trailing if isinstance(value, bytes)), b"")
    message = error.details() or ""
    for refusal in kinds(ServiceError):
        if refusal.reason == sent.get(REASON_KEY):
            return refusal.relayed(message, retry_told(error), details.facts_in(rich))
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return PeerUnavailable(f"a service that is needed does not answer: {message}", retry_after_s=1.0)
    return None


def kinds(of: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """All refusals below `of`, with theirs."""
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def refusal_in(error: BaseException) -> ServiceError | None:
    """The refusal behind an exception: itself, another service's status, or one in a task group."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_status(error)
    if isinstance(error, BaseExceptionGroup):
        return next((found for part in error.exceptions if (found := refusal_in(part))), None)
    return None
