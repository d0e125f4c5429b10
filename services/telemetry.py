"""What the services measure and log: the metrics by name, and one JSON line for each event.

Metrics are in base units and labelled by tenant and model, never by session. A step and a tick serve several
tenants at once, and what a frame costs does not depend on whose it is: those metrics have no tenant. Where
nobody is asked for a key, anybody may name a tenant: a process tells the first hundred names apart, and calls
the others `other` (`tenant_label`).

A log line has `at`, `level`, `service` and `event`. Where it is about one session it has `session`, and, as
far as they are known by then, `tenant` and `epoch`; about a control that is traced, `seq` and `trace_id`.
"""

import json
import logging
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

# One line less of every counter and histogram: when it began, which Prometheus has no use for.
disable_created_metrics()

# Edges lie on what players can tell apart: one frame (42 ms), one and a half, two, then the 350 ms promise.
_EDGES_S = (0.005, 0.01, 0.02, 0.042, 0.0625, 0.083, 0.1, 0.15, 0.25, 0.35, 0.5, 1.0, 2.5)
# A first frame is promised within two seconds.
_START_EDGES_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_MOST_TENANTS = 100
_MOST_CHARACTERS = 200  # of what a caller names

CONTROL_TO_FRAME = Histogram(
    "control_to_frame_seconds",
    "From a control being received to the first frame that obeys it being sent",
    ("tenant", "model"),
    buckets=_EDGES_S,
)
FRAME_INTERVAL = Histogram(
    "frame_interval_seconds",
    "Between one frame of a session being sent and the next",
    ("model",),
    buckets=_EDGES_S,
)
FRAMES = Counter(
    "frames_total",
    "Frames sent: `on_time` within one frame period of their place in time, `late`, or `held_up` by a viewer "
    "who gave no credit in time",
    ("tenant", "model", "timing"),
)
FIRST_FRAME = Histogram(
    "first_frame_seconds",
    "From a viewer asking for a session that was never played to its first frame being sent",
    ("tenant", "model"),
    buckets=_START_EDGES_S,
)
PLAYED = Counter("played_seconds_total", "Video that was sent, in seconds of play", ("tenant", "model"))
STALLED = Counter(
    "stalled_seconds_total",
    "How long pictures stood still past one frame period, for no fault of the viewer",
    ("tenant", "model"),
)
SESSION_OUTCOMES = Counter(
    "session_outcomes_total",
    "What became of sessions: `opened` or `not_opened` for want of a service, then how each viewing ended: "
    "`left` by the viewer, `ended` by rule or by request, `moved` to another decoder, `failed`",
    ("tenant", "model", "outcome"),
)
TICK_LATENESS = Histogram(
    "tick_lateness_seconds", "How long after its time a tick began", ("model",), buckets=_EDGES_S
)
STEP = Histogram(
    "step_seconds",
    "One network evaluation, for all sessions that shared it",
    ("model",),
    buckets=_EDGES_S,
)
DECODE = Histogram("decode_seconds", "From one latent to its pixels", ("model",), buckets=_EDGES_S)
ADMISSION = Histogram(
    "admission_seconds",
    "From a session being asked for to the decision; `opened`, or why not",
    ("outcome",),
    buckets=_EDGES_S,
)
SESSIONS_ENDED = Counter(
    "sessions_ended_total", "Sessions that ended while they were played", ("tenant", "model", "reason")
)
SESSIONS_LIVE = Gauge("sessions_live", "Sessions that an engine plays now", ("tenant", "model"))
SEATS_FREE = Gauge("seats_free", "Sessions that this engine would seat now, beside those it has", ("model",))
READY = Gauge("ready_seconds", "From the beginning of the process to its first readiness", ("service",))
CONTROLS_REFUSED = Counter(
    "controls_refused_total", "Controls that changed nothing", ("tenant", "model", "reason")
)
LOGS_DROPPED = Counter("logs_dropped_total", "Logs of sessions that made room for newer ones", ("tenant",))
LATENTS_SKIPPED = Counter(
    "latents_skipped_total", "Latents that a session did not get in their tick", ("tenant", "model", "reason")
)
SPANS_DROPPED = Counter(
    "spans_dropped_total",
    "Spans of traces that the collector did not take, or that had no room",
    ("service",),
)
STAGE = Histogram(
    "stage_seconds",
    "What a latent's first frame took, stage by stage, from a control's receipt to the frame being sent",
    ("model", "stage"),
    buckets=_EDGES_S,
)

_tenants: set[str] = set()


def tenant_label(tenant: str) -> str:
    """The tenant as metrics name it: itself, or `other` once a hundred are known."""
    if tenant not in _tenants:
        if len(_tenants) >= _MOST_TENANTS:
            return "other"
        _tenants.add(tenant)
    return tenant


# Passwords in URLs, keys and tokens as calls bear them, and what is written like a tenant's key.
_SECRETS = (
    re.compile(r'(://[^/@\s"]*:)[^@\s"]+(?=@)'),
    re.compile(r'((?i:bearer)\s+)[^\s"]+'),
    re.compile(r"(aapt_[\w.-]{1,64}_[0-9a-f]{12}_)[\w-]{43}"),
)


# Of the call that runs, and of every task that it has begun: they share what is found out on the way.
_concerned: ContextVar[dict[str, Any] | None] = ContextVar("concerned", default=None)


def begin_call() -> None:
    """What this task and those that it begins will be told of, by `concerns`, is on their log lines alone."""
    _concerned.set({})


def concerns(**fields: str | int) -> None:
    """From now on every log line of this call has these fields; without a call nobody's has.

    A caller may name a session that is none, and fills no log with it.
    """
    known = _concerned.get()
    if known is not None:
        for name, value in fields.items():
            known[name] = value[:_MOST_CHARACTERS] if isinstance(value, str) else value


class Log:
    """One service's log: each call is an event in the past tense, with its fields."""

    def __init__(self, service: str) -> None:
        self._logger = logging.getLogger(f"services.{service}")
        self._service = service

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, error: BaseException, **fields: Any) -> None:
        """An event that nobody foresaw, with the traceback of `error`."""
        self._write(logging.ERROR, event, {**fields, "traceback": "".join(traceback.format_exception(error))})

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        known = {**(_concerned.get() or {}), **fields}
        self._logger.log(level, event, extra={"service": self._service, "fields": known})


class JsonLines(logging.Formatter):
    """Each record as one line of JSON, without secrets; records of other libraries become events too."""

    def __init__(self, service: str = "") -> None:
        """`service`: whose the lines of other libraries are; empty: the library's own."""
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": getattr(record, "service", self._service or record.name),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        said = json.dumps(line, default=str)
        for secret in _SECRETS:
            said = secret.sub(r"\1***", said)
        return said


def logger(service: str) -> Log:
    """The log of one service, e.g. `logger("control").info("session seated", session=session_id)`."""
    return Log(service)


def start_logging(level: str = "INFO", service: str = "") -> None:
    """Sends every log line to standard error as JSON, instead of whatever was set before."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(JsonLines(service))
    logging.basicConfig(level=level.upper(), handlers=[lines], force=True)
