"""Spans as OpenTelemetry has them, on their way to a collector. Imported by who has one."""

import socket
import threading
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services import telemetry
from services.traceparent import Trace

_AT_ONCE = 512  # spans that are sent together
_NS_PER_S = 1_000_000_000


class Begun:
    """A span that has begun."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def end(self, ended_s: float) -> None:
        self._span.end(_ns(ended_s))


class Spans:
    """One service's spans. Those that have ended wait in a queue, and a thread sends them.

    No more wait than there is room for, those that are being sent included: the others are dropped, and
    counted, like those that the collector did not take.
    """

    def __init__(self, service: str, endpoint: str, most_waiting: int) -> None:
        resource = Resource.create(
            {
                "service.name": service,
                "service.namespace": "livevideo",
                "service.instance.id": socket.gethostname(),
            }
        )
        # What is sampled was decided in *control*; the environment has no say.
        self._provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        sending = _Sending(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces"), service, most_waiting)
        self._provider.add_span_processor(_Bounded(sending, most_waiting))
        self._tracer = self._provider.get_tracer("livevideo")

    def begin(
        self,
        name: str,
        parent: Trace | None,
        began_s: float,
        about: Mapping[str, str | int],
        linked: Sequence[Trace],
    ) -> Begun:
        """parent None: the first span of a new trace."""
        context = trace.set_span_in_context(
            NonRecordingSpan(_context(parent)) if parent else trace.INVALID_SPAN
        )
        span = self._tracer.start_span(
            name,
            context,
            attributes={f"livevideo.{key}": value for key, value in about.items()},
            links=[trace.Link(_context(each)) for each in linked],
            start_time=_ns(began_s),
        )
        return Begun(span)

    def close(self) -> None:
        """Sends what waits; that may take as long as the collector is waited for."""
        self._provider.shutdown()


class _Sending(SpanExporter):
    """Sends spans, and counts those that wait and those that were lost."""

    def __init__(self, exporter: SpanExporter, service: str, most_waiting: int) -> None:
        self._exporter = exporter
        self._most_waiting = most_waiting
        self._waiting = 0
        self._lock = threading.Lock()
        self._dropped = telemetry.SPANS_DROPPED.labels(service)

    def has_room(self) -> bool:
        """For one more, which then counts as waiting; or it is dropped."""
        with self._lock:
            if self._waiting < self._most_waiting:
                self._waiting += 1
                return True
        self._dropped.inc()
        return False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
            if result is not SpanExportResult.SUCCESS:
                self._dropped.inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Bounded(BatchSpanProcessor):
    def __init__(self, sending: _Sending, most_waiting: int) -> None:
        super().__init__(
            sending, max_queue_size=most_waiting, max_export_batch_size=min(_AT_ONCE, most_waiting)
        )
        self._sending = sending

    def on_end(self, span: ReadableSpan) -> None:
        if self._sending.has_room():
            super().on_end(span)


def _context(parent: Trace) -> SpanContext:
    return SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(TraceFlags.SAMPLED))


def _ns(time_s: float) -> int:
    return round(time_s * _NS_PER_S)
