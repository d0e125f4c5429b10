"""google.rpc's rich status: why a call was refused, in the form that clients of every language can read."""

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

KEY = "grpc-status-details-bin"  # of the trailing metadata, for every gRPC library
DOMAIN = "livevideo.v1"


def packed(
    code: int, message: str, reason: str, retry_after_s: float | None, facts: Mapping[str, str]
) -> bytes:
    """An ErrorInfo always; RetryInfo where a time is known, QuotaFailure and BadRequest where the facts name
    a tenant's quota or a field."""
    status = Status(code=code, message=message)
    retryable = "false" if retry_after_s is None else "true"
    told = ErrorInfo(reason=reason.upper(), domain=DOMAIN, metadata={**facts, "retryable": retryable})
    status.details.add().Pack(told)
    if retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(round(1000 * retry_after_s))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    if "quota" in facts:
        subject = f"tenant:{facts.get('tenant', '')}"
        violation = QuotaFailure.Violation(subject=subject, description=f"{facts['quota']}: {message}")
        status.details.add().Pack(QuotaFailure(violations=[violation]))
    if "field" in facts:
        field = BadRequest.FieldViolation(field=facts["field"], description=message)
        status.details.add().Pack(BadRequest(field_violations=[field]))
    return bytes(status.SerializeToString())


def facts_in(received: bytes) -> dict[str, str]:
    """The facts that `packed` was given; none where something else was sent."""
    told = ErrorInfo()
    try:
        for detail in Status.FromString(received).details:
            if detail.Unpack(told) and told.domain == DOMAIN:
                return {key: value for key, value in told.metadata.items() if key != "retryable"}
    except DecodeError:
        return {}
    return {}
