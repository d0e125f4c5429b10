"""Every refusal: one class, one sentence, one gRPC code.

`services.calls` turns a ServiceError into its status, with `reason`, `retry-after-s` and google.rpc's details
in the trailing metadata; `services.relay` turns such a status back into the same class on the caller's side.
"""

from collections.abc import Mapping
from typing import ClassVar, Self

import grpc

from livevideo_client.refusals import REASON_KEY, RETRY_KEY
from services import details


class ServiceError(Exception):
    """A refusal; its message says what was asked, what is so, and what to do.

    facts: what a program may want to know of it, by name, e.g. {"position": "3"}.
    retry_s: when to try again where the refusal itself does not say; None: it would not help.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "internal"
    retry_s: ClassVar[float | None] = None

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = self.retry_s if retry_after_s is None else retry_after_s
        self.facts = dict(facts or {})

    @classmethod
    def relayed(
        cls, message: str, retry_after_s: float | None, facts: Mapping[str, str] | None = None
    ) -> Self:
        """The same refusal as another service worded it, whatever the subclass's own constructor takes."""
        error = cls.__new__(cls)
        ServiceError.__init__(error, message, retry_after_s=retry_after_s, facts=facts)
        return error

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        retry = () if self.retry_after_s is None else ((RETRY_KEY, f"{self.retry_after_s:g}"),)
        code = self.code.value[0]
        rich = details.packed(code, self.message, self.reason, self.retry_after_s, self.facts)
        return ((REASON_KEY, self.reason), *retry, (details.KEY, rich))


class BadRequest(ServiceError):
    """A field of the request has a value that it cannot have."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "bad_request"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", facts={"field": field})


class UnknownSession(ServiceError):
    """No session has this id: it never existed, or its record has expired."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "unknown_session"


class UnknownModel(ServiceError):
    """No engine has announced a model of this name."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "unknown_model"


class SessionClosed(ServiceError):
    """The session has ended; open a new one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "session_closed"


class Preempted(SessionClosed):
    """The seat went to a tenant of higher priority, after the notice that the session was given."""

    reason = "preempted"
    retry_s = 5.0


class TimeUp(SessionClosed):
    """The session has played, or stood idle, for as long as its tenant's quotas allow."""

    reason = "time_up"


class Revoked(SessionClosed):
    """The key that the session was opened with, or its whole tenant, was revoked."""

    reason = "revoked"


class Unauthenticated(ServiceError):
    """The call brings no key or token that is good for it."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "unauthenticated"


class QuotaExceeded(ServiceError):
    """The tenant may not have more of this; others may."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "quota_exceeded"

    def __init__(self, tenant: str, quota: str, message: str, *, retry_after_s: float | None = None) -> None:
        facts = {"tenant": tenant, "quota": quota}
        super().__init__(f"tenant {tenant} {message}", retry_after_s=retry_after_s, facts=facts)


class TooManyStreams(ServiceError):
    """The session has as many streams of this kind as it may have; use one of them, or end one first."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "too_many_streams"
    retry_s = 1.0


class TenantExists(ServiceError):
    """There is a tenant of this name already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "tenant_exists"


class UnknownTenant(ServiceError):
    """No tenant has this name, or no key of the tenant has this id."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "unknown_tenant"


class SeatTaken(ServiceError):
    """The session is being watched already; it has one viewer."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "seat_taken"
    retry_s = 3.0


class ReplicaTaken(ServiceError):
    """Two engines have one name; a name belongs to the one that announced itself first, while it lives."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "replica_taken"


class EngineFull(ServiceError):
    """Every slot is taken; try again when a session ends."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "engine_full"
    retry_s = 5.0


class QueueFull(EngineFull):
    """Every slot is taken, and as many wait for one as may wait; try again later."""

    reason = "queue_full"


class OutOfMemory(EngineFull):
    """There is a slot and time for it, but no memory; try again when a session ends, or elsewhere."""

    reason = "out_of_memory"


class DecoderFull(ServiceError):
    """This decoder has no time for another viewer; watch at another one, or later."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "decoder_full"
    retry_s = 5.0


class TooBusy(ServiceError):
    """This instance has more of such work than it can do at once; try again soon."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "too_busy"
    retry_s = 1.0


class NoEngine(ServiceError):
    """No live engine serves the model now; try again when one has started."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "no_engine"
    retry_s = 2.0


class StoreUnavailable(ServiceError):
    """Redis does not answer; sessions go on, but nothing can be opened or steered until it does."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "store_unavailable"
    retry_s = 1.0


class PeerUnavailable(ServiceError):
    """Another service that is needed for this does not answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "peer_unavailable"
    retry_s = 1.0


class CallerNotAllowed(ServiceError):
    """The caller's certificate names nobody who may call this port."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "caller_not_allowed"


class Superseded(ServiceError):
    """A newer epoch has claimed the session; whoever holds the older one must let go."""

    code = grpc.StatusCode.ABORTED
    reason = "superseded"


class ViewerGone(ServiceError):
    """The viewer has shown nothing for too long and is taken to have left."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "viewer_gone"
    retry_s = 0.5


class StepFailed(ServiceError):
    """The network failed in a step; the sessions that shared it lost their slots and can be resumed."""

    code = grpc.StatusCode.INTERNAL
    reason = "step_failed"
    retry_s = 0.5


class ServiceStopping(ServiceError):
    """The service drains and takes no more work; another instance goes on."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "service_stopping"
    retry_s = 0.5


class PortTaken(ServiceError):
    """The port that the service should listen on belongs to another program."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "port_taken"


class BadCheckpoint(ServiceError):
    """The checkpoint is missing, truncated, or not one of ours."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "bad_checkpoint"


class NoCluster(ServiceError):
    """There is no Ray cluster to deploy on: Ray is not installed, or nothing answers at its address."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "no_cluster"


class ClusterTooSmall(ServiceError):
    """The cluster's machines cannot hold the replicas that were asked for."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "cluster_too_small"


class BadSetting(ServiceError):
    """A variable of the environment has a value that its setting cannot have."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "bad_setting"
