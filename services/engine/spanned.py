"""What the engine does for a control that is traced: it waits for its tick, and a step obeys it."""

import time

from livevideo.v1.session_pb2 import Session
from services.engine.residence import Made
from services.tracing import Tracer, about


def record_latent(tracer: Tracer, session: Session, made: Made) -> str:
    """How a latent, made now, came to obey the controls that are traced.

    Returns the traceparent from which the newest one's trace goes on; empty: none is traced. The others that
    share the latent end here, linked to it.
    """
    if not made.turn.traced:
        return ""
    traceparent = ""
    ended_s = time.time()
    stepped_s = made.made_at_s or ended_s
    began_s = stepped_s - made.step_s
    for control in reversed(made.turn.traced):
        said = about(session, index=made.index, control_seq=control.seq)
        linked = [traceparent] if traceparent else []
        arrived_s = min(control.arrived_at_s, began_s)
        span = tracer.begin("latent", control.traceparent, arrived_s, said, linked)
        tracer.record("wait", span.traceparent, arrived_s, began_s, said)
        tracer.record("step", span.traceparent, began_s, stepped_s, {**said, "sessions": made.sessions})
        span.end(ended_s)
        traceparent = traceparent or span.traceparent
    return traceparent
