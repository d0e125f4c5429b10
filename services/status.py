"""What a process says of itself over HTTP: /metrics to Prometheus, /healthz and /readyz to who runs it."""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import prometheus_client

from services import telemetry
from services.errors import BadSetting, PortTaken
from services.tls import Tls, internal_identity, server_context

_MOST_REQUESTS = 32  # at a time
_REQUEST_S = 5.0  # longest silence of one
_BEGAN_S = time.monotonic()  # imported when a process begins, before anything large is loaded


@dataclass
class Readiness:
    """Whether players may be sent here, and why not."""

    trouble: str | None = "it is starting"
    began_s: float | None = None  # from the beginning of the process to its first readiness

    def begin(self, service: str) -> None:
        """Ready from now on. How long that took since the process began is kept, the first time."""
        self.trouble = None
        if self.began_s is None:
            self.began_s = round(time.monotonic() - _BEGAN_S, 3)
            telemetry.READY.labels(service).set(self.began_s)


def serve(host: str, port: int, readiness: Readiness, tls: Tls | None = None) -> None:
    """Serves the pages from a thread of its own, for good, by TLS where there is a certificate.

    Raises PortTaken, BadSetting.
    """
    metrics = prometheus_client.make_wsgi_app()

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, trouble = environ["PATH_INFO"], readiness.trouble
        if path == "/healthz":
            return _answer(start_response, "200 OK", "alive")
        if path == "/readyz":
            status = "503 Service Unavailable" if trouble else "200 OK"
            return _answer(start_response, status, f"not ready: {trouble}" if trouble else "ready")
        if path in ("/metrics", "/"):
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        return _answer(start_response, "404 Not Found", "there are /metrics, /healthz and /readyz")

    host = host.strip("[]")
    identity = internal_identity(tls) if tls else None
    try:
        server = make_server(host, port, page, _Server6 if ":" in host else _Server, _Silent)
    except OverflowError as error:
        raise BadSetting(f"METRICS_PORT is {port}; it must be from 1 to 65535, or 0 for none") from error
    except OSError as error:
        raise PortTaken(
            f"metrics cannot be served on {host}:{port}: {error.strerror}; set another METRICS_PORT"
        ) from error
    if identity:
        # Anybody may read: who probes a pod has no certificate. Hands are shaken in the request's thread.
        context = server_context(identity, asks=False)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, name="status", daemon=True).start()


def _answer(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode() + b"\n"]


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, but not for everybody who only connects."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room = threading.Semaphore(_MOST_REQUESTS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Somebody who says nothing, or not TLS, is no event."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Silent(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *args: Any) -> None: ...
