"""A collector of traces: takes OTLP over HTTP, and keeps what it was sent."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Collected:
    """One span, and whose it is."""

    service: str
    span: Span

    @property
    def about(self) -> dict[str, str | int]:
        return {each.key: each.value.string_value or each.value.int_value for each in self.span.attributes}


class Collector:
    """What was sent to `endpoint`."""

    def __init__(self) -> None:
        self.collected: list[Collected] = []
        self.endpoint = ""
        self.answers = 200
        self.holds: threading.Event | None = None  # until then nobody is answered

    def trace(self, trace_id: str) -> list[Collected]:
        return [each for each in self.collected if each.span.trace_id.hex() == trace_id]

    def take(self, request: ExportTraceServiceRequest) -> None:
        for of_service in request.resource_spans:
            resource = {each.key: each.value.string_value for each in of_service.resource.attributes}
            for scope in of_service.scope_spans:
                self.collected += [Collected(resource["service.name"], span) for span in scope.spans]

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not there():  # noqa: ASYNC110 (it comes from another thread)
                await asyncio.sleep(0.02)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.holds is not None:
                collector.holds.wait(DEADLINE_S)
            if collector.answers == 200 and self.path == "/v1/traces":
                collector.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(collector.answers)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    collector.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
