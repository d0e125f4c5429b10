"""What the decoder does for a control that is traced: the first frame that obeys it."""

import time
from typing import TYPE_CHECKING

from livevideo.v1.session_pb2 import Session
from services.tracing import Tracer, about

if TYPE_CHECKING:
    from services.decoder.playback import Rendered


def record_frame(tracer: Tracer, session: Session, epoch: int, rendered: "Rendered", now_s: float) -> str:
    """From a latent's coming to its first frame being sent, now by the monotonic clock.

    Returns the traceparent that the frame carries; empty: it is not traced.
    """
    latent = rendered.latent
    if not latent.traceparent:
        return ""
    offset_s = time.time() - now_s
    came_s, ready_s, ended_s = (offset_s + each for each in (rendered.came_s, rendered.ready_s, now_s))
    decoded_s = ready_s - sum(rendered.encode_s)
    said = about(session, epoch=epoch, index=latent.index, control_seq=latent.control_seq)
    span = tracer.begin("frame", latent.traceparent, came_s, said)
    tracer.record("decode", span.traceparent, decoded_s - rendered.decode_s, decoded_s, said)
    tracer.record("encode", span.traceparent, decoded_s, ready_s, said)
    tracer.record("send", span.traceparent, ready_s, ended_s, said)
    span.end(ended_s)
    return span.traceparent
