"""What a client of any language reads in a refusal: google.rpc's rich status, by Google's own library."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status

from services import details, errors
from services.relay import from_status, kinds
from tests.services.test_app import Dial, Echo, Serve, failure_of


async def told(refusal: errors.ServiceError, serve: Serve, dial: Dial) -> list[Any]:
    """The details that arrive with a refusal."""
    status = rpc_status.from_call(await failure_of(await serve(Echo(refusal)), dial))  # type: ignore[arg-type]
    assert status is not None
    assert (status.code, status.message) == (refusal.code.value[0], refusal.message)
    unpacked = []
    for detail in status.details:
        kind = {
            "ErrorInfo": ErrorInfo,
            "RetryInfo": RetryInfo,
            "QuotaFailure": QuotaFailure,
            "BadRequest": BadRequest,
        }
        message = kind[detail.type_url.rpartition(".")[2]]()
        detail.Unpack(message)
        unpacked.append(message)
    return unpacked


async def test_a_drain_says_when_to_come_again(serve: Serve, dial: Dial) -> None:
    info, retry = await told(errors.ServiceStopping("it drains", retry_after_s=0.5), serve, dial)
    assert (info.reason, info.domain) == ("SERVICE_STOPPING", "livevideo.v1")
    assert dict(info.metadata) == {"retryable": "true"}
    assert retry.retry_delay.ToMilliseconds() == 500


async def test_a_quota_says_whose_it_is(serve: Serve, dial: Dial) -> None:
    refusal = errors.QuotaExceeded("acme", "sessions", "has 4 already")
    info, quota = await told(refusal, serve, dial)
    assert dict(info.metadata) == {"tenant": "acme", "quota": "sessions", "retryable": "false"}
    assert quota.violations[0].subject == "tenant:acme"


async def test_a_bad_field_is_named(serve: Serve, dial: Dial) -> None:
    _, bad = await told(errors.BadRequest("image", "is no picture"), serve, dial)
    assert bad.field_violations[0].field == "image"


@pytest.mark.parametrize("sent", [b"", b"\xff" * 100, b"\x08\x05", b"\x1a\x02\x12\x00"], ids=range(4))
def test_details_that_are_none_are_no_facts(sent: bytes) -> None:
    assert details.facts_in(sent) == {}


async def test_facts_arrive_where_a_refusal_is_passed_on(serve: Serve, dial: Dial) -> None:
    refusal = errors.EngineFull("it is full", retry_after_s=5.0, facts={"position": "3"})
    arrived = from_status(await failure_of(await serve(Echo(refusal)), dial))
    assert isinstance(arrived, errors.EngineFull)
    assert arrived.facts == {"position": "3"}


@pytest.mark.parametrize("kind", [*kinds(errors.ServiceError)], ids=lambda kind: kind.reason)
def test_what_passes_says_when_to_come_again_whoever_forgot_to(kind: type[errors.ServiceError]) -> None:
    refusal = kind.relayed("so it is", None)
    is_of_setup = kind in (errors.NoCluster, errors.ClusterTooSmall)
    is_for_good = kind is errors.QuotaExceeded  # some are: each says so itself
    passes = refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (refusal.retry_after_s is not None) or not passes or is_of_setup or is_for_good
