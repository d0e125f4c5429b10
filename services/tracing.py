"""Traces: where the time of one control goes, from service to service, as spans of OpenTelemetry.

*control* decides at a control's receipt whether it is traced. From there on a W3C traceparent travels with
it, and with the latent and the frame that obey it; where that is empty, nobody traces. OpenTelemetry is
imported by who has a collector, and by nobody else.
"""

import asyncio
import importlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from services.errors import BadSetting
from services.traceparent import parsed

if TYPE_CHECKING:
    from livevideo.v1.session_pb2 import Session
    from services.spans import Begun, Spans

About: TypeAlias = Mapping[str, str | int]

MOST_WAITING = 2048  # spans that wait for the collector; more are dropped, and counted
_STOP_S = 1.0  # longest wait for a collector at the end


@dataclass(frozen=True)
class Tracing:
    """Where spans go, under OpenTelemetry's own name."""

    # OTLP over HTTP, as http://collector:4318; empty: nothing is traced.
    otel_exporter_otlp_endpoint: str = ""

    def __post_init__(self) -> None:
        endpoint = self.otel_exporter_otlp_endpoint
        if not endpoint:
            return
        try:
            parts = urlsplit(endpoint)
            is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address:
            raise BadSetting("OTEL_EXPORTER_OTLP_ENDPOINT is no address; give one as http://collector:4318")


@dataclass(frozen=True)
class Sampling:
    """Which controls are traced; decided by *control*."""

    trace_sampling: float = 0.0  # share of all controls, 0 to 1; 0: none, also none that a client traces
    # Most controls a second that are traced because their client traces them.
    client_traces_per_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.trace_sampling <= 1:
            raise BadSetting(f"TRACE_SAMPLING is {self.trace_sampling}; it must be from 0 to 1")


def about(session: "Session", **more: int) -> About:
    """What every span of a session says: whose it is, and no secret."""
    of_session = {"session": session.session_id, "tenant": session.tenant, "model": session.model.name}
    return {**of_session, "epoch": session.epoch, **more}


class Sampler:
    """Decides at a control's receipt whether it is traced.

    A share of all is, and those whose client traces them, but not many a second: who traces everything is
    sampled like the others. A trace that the client does not record is none.
    """

    def __init__(
        self,
        sampling: Sampling,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._sampling = sampling
        self._clock = clock
        self._chance = chance
        self._most = max(1.0, sampling.client_traces_per_s)
        self._left = self._most
        self._filled_at_s = clock()

    def parent(self, brought: str) -> str | None:
        """What the first span hangs on: the client's own, None for a new trace; empty: it is not traced."""
        if not self._sampling.trace_sampling:
            return ""
        if brought and parsed(brought) and self._has_room():
            return brought
        return None if self._chance() < self._sampling.trace_sampling else ""

    def _has_room(self) -> bool:
        now_s = self._clock()
        gained = (now_s - self._filled_at_s) * self._sampling.client_traces_per_s
        self._left, self._filled_at_s = min(self._most, self._left + gained), now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Span:
    """What has begun. traceparent: for what follows from it; empty where nothing is traced."""

    def __init__(self, traceparent: str, begun: "Begun | None" = None) -> None:
        self.traceparent = traceparent
        self._begun = begun

    def end(self, ended_s: float) -> None:
        """At a time since 1970."""
        if self._begun is not None:
            self._begun.end(ended_s)


class Tracer:
    """One service's spans. Times are in seconds since 1970.

    Without a collector nothing is recorded, and what hangs on a span hangs on its parent. Ending a span waits
    for nobody: where the collector is away, spans are dropped.
    """

    def __init__(self, service: str, tracing: Tracing, most_waiting: int = MOST_WAITING) -> None:
        """Raises BadSetting where there is a collector, and no OpenTelemetry."""
        self._spans: Spans | None = None
        if not tracing.otel_exporter_otlp_endpoint:
            return
        try:
            spans = importlib.import_module("services.spans")
        except ImportError as error:
            raise BadSetting(
                f"OTEL_EXPORTER_OTLP_ENDPOINT is set, and OpenTelemetry is not installed ({error}); install"
                " livevideo-services[tracing], or leave it empty"
            ) from error
        self._spans = spans.Spans(service, tracing.otel_exporter_otlp_endpoint, most_waiting)

    def begin(
        self, name: str, parent: str | None, began_s: float, about: About, linked: Sequence[str] = ()
    ) -> Span:
        """A span that hangs on `parent`; None: the first of a new trace. Empty, or no traceparent: of none.

        linked: other spans that it belongs to.
        """
        if self._spans is None or parent == "":
            return Span(parent or "")
        hangs_on = None if parent is None else parsed(parent)
        if parent is not None and hangs_on is None:
            return Span("")
        links = [trace for trace in map(parsed, linked) if trace]
        begun = self._spans.begin(name, hangs_on, began_s, about, links)
        return Span(begun.traceparent, begun)

    def record(self, name: str, parent: str, began_s: float, ended_s: float, about: About) -> None:
        """A span that nothing hangs on."""
        self.begin(name, parent, began_s, about).end(ended_s)

    async def stop(self) -> None:
        """Sends what waits, if the collector takes it soon."""
        if self._spans is not None:
            # Of its own, and a daemon: nobody waits at the end of a process for a collector that is away.
            sending = threading.Thread(target=self._spans.close, name="last spans", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, _STOP_S)
