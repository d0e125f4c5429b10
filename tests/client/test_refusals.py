"""What a service refuses is an exception of the client's, by code and reason."""

import grpc
import pytest
from grpc.aio import Metadata

from livevideo_client import access, refusals
from livevideo_client.refusals import Refused, refusal_of
from services import endings, errors
from services.ports import PING
from services.relay import kinds

# What players may be told, by its class in the client.
WANTED: dict[type[errors.ServiceError], type[Refused]] = {
    errors.BadRequest: refusals.BadRequest,
    errors.Unauthenticated: refusals.NotAllowed,
    errors.CallerNotAllowed: refusals.NotAllowed,
    errors.UnknownSession: refusals.NotKnown,
    errors.UnknownModel: refusals.NotKnown,
    errors.EngineFull: refusals.NoRoom,
    errors.QueueFull: refusals.NoRoom,
    errors.OutOfMemory: refusals.NoRoom,
    errors.DecoderFull: refusals.NoRoom,
    errors.QuotaExceeded: refusals.NoRoom,
    errors.TooBusy: refusals.NoRoom,
    errors.TooManyStreams: refusals.NoRoom,
    errors.SeatTaken: refusals.SeatTaken,
    errors.NoEngine: refusals.Unavailable,
    errors.StoreUnavailable: refusals.Unavailable,
    errors.PeerUnavailable: refusals.Unavailable,
    errors.ServiceStopping: refusals.Unavailable,
    errors.ViewerGone: refusals.Unavailable,
    errors.SessionClosed: refusals.SessionEnded,
    errors.Preempted: refusals.SessionEnded,
    errors.TimeUp: refusals.SessionEnded,
    errors.Revoked: refusals.SessionEnded,
}


def arrived(refusal: errors.ServiceError) -> Refused:
    error = grpc.aio.AioRpcError(
        refusal.code, Metadata(), Metadata(*refusal.trailing_metadata()), refusal.message
    )
    return refusal_of(error)


@pytest.mark.parametrize("sent", WANTED, ids=[str(sent.reason) for sent in WANTED])
def test_a_refusal_keeps_its_reason_its_sentence_and_its_time(sent: type[errors.ServiceError]) -> None:
    refusal = arrived(sent.relayed("it is so", 2.5))
    assert type(refusal) is WANTED[sent]
    assert (refusal.reason, refusal.message, refusal.retry_after_s) == (sent.reason, "it is so", 2.5)
    assert str(refusal) == f"{sent.reason}: it is so; try again in 2.5 s"
    assert arrived(sent.relayed("it is so", None)).retry_after_s == sent.retry_s


def test_every_end_of_a_session_is_known_to_the_client() -> None:
    ends = {errors.SessionClosed.reason, *(kind.reason for kind in kinds(errors.SessionClosed))}
    assert ends == set(refusals.SessionEnded.REASONS)


def test_what_says_no_reason_is_told_by_its_code() -> None:
    def ended(code: grpc.StatusCode, details: str) -> Refused:
        return refusal_of(grpc.aio.AioRpcError(code, Metadata(), Metadata(), details))

    assert type(ended(grpc.StatusCode.UNAVAILABLE, "refused")) is refusals.Unavailable
    certificate = "SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: self signed certificate"
    assert type(ended(grpc.StatusCode.UNAVAILABLE, certificate)) is refusals.BadCertificate
    assert ended(grpc.StatusCode.INTERNAL, "it broke").reason == "internal"
    assert ended(grpc.StatusCode.DEADLINE_EXCEEDED, "").retry_after_s == 1.0


def test_a_time_that_cannot_be_is_none() -> None:
    for said in ("nan", "inf", "soon", ""):
        error = grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata((refusals.RETRY_KEY, said)), "away"
        )
        assert refusals.retry_told(error) is None


@pytest.mark.parametrize("why", ["closed", "preempted", "revoked", "time_up", "idle", "minutes_used", ""])
def test_a_session_ends_for_the_same_reason_whoever_tells_it(why: str) -> None:
    assert refusals.ended(why).reason == endings.ended("the session", why).reason


def test_a_client_pings_as_the_services_do() -> None:
    assert set(PING) <= set(access._OPTIONS)
