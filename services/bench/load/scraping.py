"""What /metrics takes over HTTP, of a process that a hundred tenants play on."""

import http.client
import socket
import time

from livevideo.v1.session_pb2 import Model, Session
from loadtests.timeline import percentiles
from services import status, telemetry
from services.decoder.continuity import Continuity
from services.status import Readiness

TENANTS = 100
PROMISED_S = 0.05
_FRAMES = 100


def scrape(times: int = 50) -> dict[str, float]:
    """Asks so often, each time on a connection of its own, in one process with who answers."""
    _played()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    status.serve("127.0.0.1", port, Readiness(None))
    took_s, size_bytes = [], 0
    for _ in range(times):
        begun_s = time.perf_counter()
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        asking.request("GET", "/metrics")
        answer = asking.getresponse()
        size_bytes = len(answer.read())
        took_s.append(time.perf_counter() - begun_s)
        asking.close()
        if answer.status != 200:
            raise ValueError(f"/metrics answered {answer.status} {answer.reason}")
    p50_s, p99_s = percentiles(took_s, 0.5, 0.99)
    return {"tenants": TENANTS, "p50_s": p50_s, "p99_s": p99_s, "size_bytes": size_bytes}


def _played() -> None:
    """Every tenant has all the series that a decoder, *sessions*, *control* and an engine keep of one."""
    for number in range(TENANTS):
        model = Model(name="road", frames_per_second=24)
        session = Session(tenant=f"tenant-{number:03}", model=model)
        tenant = telemetry.tenant_label(session.tenant)
        continuity = Continuity(session, asked_at_s=0.0)
        for index in range(_FRAMES):
            continuity.sent(index, 0.0, index / 24)
        continuity.obeyed(1, 0.1, 0.0)
        for outcome in ("opened", "not_opened"):
            telemetry.SESSION_OUTCOMES.labels(tenant, model.name, outcome).inc()
        telemetry.SESSIONS_LIVE.labels(tenant, model.name).inc()
        telemetry.SESSIONS_ENDED.labels(tenant, model.name, "closed").inc()
        telemetry.CONTROLS_REFUSED.labels(tenant, model.name, "flood").inc()
        telemetry.LATENTS_SKIPPED.labels(tenant, model.name, "no_credit").inc()
        telemetry.LOGS_DROPPED.labels(tenant).inc()
