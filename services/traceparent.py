"""W3C traceparents: the few words by which a trace goes from one process to the next."""

import re
from dataclasses import dataclass

_MOST_CHARACTERS = 128
# A later version of the format may say more behind a dash; the first says no more.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?", re.A
)


@dataclass(frozen=True)
class Trace:
    """What a traceparent says of a trace that is recorded."""

    trace_id: int
    span_id: int


def parsed(traceparent: str) -> Trace | None:
    """None for what is no traceparent, or says that nobody records the trace."""
    if len(traceparent) > _MOST_CHARACTERS:
        return None
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found["more"] and traceparent.startswith("00")):
        return None
    trace_id, span_id, flags = (int(found[i], 16) for i in (1, 2, 3))
    return Trace(trace_id, span_id) if trace_id and span_id and flags & 1 else None


def exemplar(traceparent: str) -> dict[str, str] | None:
    """What a histogram keeps beside a value, so that its trace can be found."""
    trace = parsed(traceparent)
    return {"trace_id": f"{trace.trace_id:032x}"} if trace else None
