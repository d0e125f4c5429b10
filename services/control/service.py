"""ControlService: a player's controls through the gate to *sessions*, and their receipts back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from livevideo.v1 import control_pb2, control_pb2_grpc, session_pb2_grpc
from livevideo.v1.control_pb2 import ControlEvent, ControlReceipt, Refused
from livevideo.v1.session_pb2 import GetRequest, PushRequest, Session, SessionState
from livevideo_client.pace import AT_ONCE_KEY, PER_S_KEY
from services import telemetry
from services.app import Context, open_channel, until_one_ends
from services.channel import Channel
from services.control.gate import ControlGate
from services.control.gates import Gates
from services.credentials import Metadata, carried
from services.endings import ended
from services.errors import BadRequest, BadSetting
from services.relay import from_status
from services.settings import check
from services.tls import Tls
from services.traceparent import exemplar
from services.tracing import Sampler, Sampling, Span, Tracer, Tracing, about

log = telemetry.logger("control")


@dataclass(frozen=True)
class Settings:
    """From the environment; the variable is the field's name in capitals."""

    address: str = "127.0.0.1:50051"  # where it listens, host:port
    metrics_port: int = 0  # where Prometheus reads, on the same host; 0: nowhere
    sessions_address: str = "127.0.0.1:50062"  # internal address of *sessions*, host:port
    controls_per_s: float = 200.0  # most controls a second for one session
    burst: int = 100  # controls that one session may send at once after a silence
    streams_per_session: int = 8  # most Send calls of one session here; each holds a connection to Redis
    first_event_s: float = 5.0  # longest wait for a stream's first event, which names the session
    get_s: float = 5.0  # longest wait for *sessions* to say which session it is
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        check(self, burst=1, streams_per_session=1)
        if self.sampling.trace_sampling and not self.tracing.otel_exporter_otlp_endpoint:
            raise BadSetting(
                f"TRACE_SAMPLING is {self.sampling.trace_sampling} and OTEL_EXPORTER_OTLP_ENDPOINT is empty;"
                " say where the collector is, or leave both out"
            )


class ControlService(control_pb2_grpc.ControlServiceServicer):
    """Any instance serves any player: what must hold across instances, *sessions* checks again."""

    name = "control"

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._gates = Gates(
            controls_per_s=self._settings.controls_per_s,
            burst=self._settings.burst,
            streams_per_session=self._settings.streams_per_session,
            clock=time.monotonic,
        )
        self._tracer = Tracer(self.name, self._settings.tracing)
        self._sampler = Sampler(self._settings.sampling)
        self._channel: Channel | None = None

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        control_pb2_grpc.add_ControlServiceServicer_to_server(self, server)
        return [control_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name]

    async def start(self) -> None:
        self._channel = open_channel(self._settings.sessions_address, self._settings.tls)

    def trouble(self) -> str | None:
        """Why no control can be taken, where that is so."""
        return self._channel.trouble("sessions") if self._channel else None

    async def stop(self) -> None:
        if self._channel is not None:
            await self._channel.close()
        await self._tracer.stop()

    # grpc.aio also takes a coroutine that writes to the context; the stubs know generators only.
    async def Send(  # type: ignore[override]
        self, request_iterator: AsyncIterator[ControlEvent], context: Context
    ) -> None:
        first = await _first(request_iterator, self._settings.first_event_s)
        if first is None:
            return
        if self._channel is None:
            raise RuntimeError("control was asked before it was started; await start() first")
        credentials = carried(context)
        telemetry.concerns(session=first.session_id)
        session = await self._found(self._channel, first.session_id, credentials)
        telemetry.concerns(tenant=session.tenant, epoch=session.epoch)
        with self._gates.entered(session) as gate:
            # A client that has much to send at once, after an outage, need not guess.
            at_most = ((PER_S_KEY, f"{gate.controls_per_s:g}"), (AT_ONCE_KEY, str(gate.burst)))
            await context.send_initial_metadata(at_most)
            push = session_pb2_grpc.SeatServiceStub(self._channel).Push(metadata=credentials)
            try:
                send = _Send(session, gate, push, context, self._receipt)
                await until_one_ends(send.forward_all(first, request_iterator), send.bring_receipts())
            except grpc.aio.AioRpcError as error:
                if from_status(error) is None:  # a write that was under way when Push ended loses the reason
                    await self._found(self._channel, session.session_id, credentials)
                raise
            finally:
                push.cancel()

    def _receipt(self, session: Session, event: ControlEvent, received_at_s: float) -> Span:
        """Of a control that was let through: the first span of its trace, if it is to be traced."""
        parent = self._sampler.parent(event.traceparent)
        if parent == "":
            return Span("")
        said = about(session, control_seq=event.seq)
        span = self._tracer.begin("control", parent, received_at_s, said)
        log.info("control traced", seq=event.seq, **(exemplar(span.traceparent) or {}))
        return span

    async def _found(self, channel: Channel, session_id: str, credentials: Metadata) -> Session:
        """Raises SessionClosed, and what *sessions* refuses."""
        session = await session_pb2_grpc.SessionServiceStub(channel).Get(
            GetRequest(session_id=session_id), timeout=self._settings.get_s, metadata=credentials
        )
        if session.state == SessionState.SESSION_STATE_CLOSED:
            raise ended(f"session {session.session_id}", session.ended)
        return session


async def _first(events: AsyncIterator[ControlEvent], within_s: float) -> ControlEvent | None:
    """The event that names the session; None from a player who left without one. Raises BadRequest."""
    try:
        async with asyncio.timeout(within_s):
            first = await anext(events, None)
    except TimeoutError as error:
        raise BadRequest(
            "session_id", f"no event came within {within_s:g} s; name the session at once"
        ) from error
    if first is not None and not first.session_id:
        raise BadRequest("session_id", "is empty in the first event; name the session")
    return first


class _Send:
    """One Send call."""

    def __init__(
        self,
        session: Session,
        gate: ControlGate,
        push: "grpc.aio.StreamStreamCall[PushRequest, ControlReceipt]",
        context: Context,
        receipt: Callable[[Session, ControlEvent, float], Span],
    ) -> None:
        """receipt: begins the span of a control that was let through."""
        self._session = session
        self._gate = gate
        self._push = push
        self._context = context
        self._receipt = receipt
        self._writing = asyncio.Lock()

    async def forward_all(self, first: ControlEvent, others: AsyncIterator[ControlEvent]) -> None:
        """Never ends: once the player has sent the last control, the last receipt ends the call."""
        await self._forward(first, time.time())
        async for event in others:
            await self._forward(event, time.time())
        await self._push.done_writing()
        await asyncio.Event().wait()

    async def bring_receipts(self) -> None:
        async for receipt in self._push:
            await self._write(receipt)

    async def _forward(self, event: ControlEvent, received_at_s: float) -> None:
        if event.session_id not in ("", self._session.session_id):
            message = "this stream is for another session; open one stream for each"
            refused: Refused | None = Refused(reason="other_session", message=message)
        else:
            refused = self._gate.refusal(event, time.monotonic())
        if refused is not None:
            await self._write(ControlReceipt(seq=event.seq, refused=refused))
            return
        event.session_id = self._session.session_id
        span = self._receipt(self._session, event, received_at_s)
        event.traceparent = span.traceparent
        try:
            await self._push.write(PushRequest(event=event, received_at_s=received_at_s))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The call has ended, and a write does not know why: whoever reads the receipts is told.
            await asyncio.Event().wait()
        finally:
            span.end(time.time())

    async def _write(self, receipt: ControlReceipt) -> None:
        if receipt.HasField("refused"):
            tenant, model = telemetry.tenant_label(self._session.tenant), self._session.model.name
            telemetry.CONTROLS_REFUSED.labels(tenant, model, receipt.refused.reason).inc()
        async with self._writing:
            await self._context.write(receipt)
