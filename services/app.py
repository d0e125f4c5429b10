"""The one way to be a service: settings, port, health, reflection, refusals, metrics, signals, drain."""

import asyncio
import signal
import typing
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services import status, telemetry
from services.errors import BadSetting, PortTaken, ServiceError, refusal_in
from services.settings import settings_from_env
from services.status import Readiness

# What one message may weigh: a first picture and what comes with it. A larger one holds up everybody while it
# is read.
MAX_MESSAGE_BYTES = 6 << 20
# Among ourselves: a session's whole window of latents, when a decoder hands it to the next engine.
MAX_WINDOW_BYTES = 32 << 20

_TROUBLE_EVERY_S = 1.0

# Pings find a peer that hangs, or whose machine vanished without closing its connections.
_PING = (
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC sends a ping of its own now and then, and none of ours while that one is not answered.
    ("grpc.http2.ping_timeout_ms", 3000),
)

log = telemetry.logger("app")
# Generic in the type stubs alone, so quoted.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
S = TypeVar("S")


class Service(Protocol):
    """What Host asks of a service."""

    name: str

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        """Adds its servicers and returns their full gRPC names."""

    async def start(self) -> None:
        """Opens connections and starts background tasks; nobody calls before it returns."""

    async def stop(self) -> None:
        """Drains; calls in progress are cut only after it returns."""


class RunSettings(Protocol):
    """Settings that every service has."""

    @property
    def address(self) -> str: ...

    @property
    def metrics_port(self) -> int: ...


R = TypeVar("R", bound=RunSettings)
V = TypeVar("V", bound=Service)


class Host:
    """One service on one gRPC port.

    trouble: asked every second why nobody can be served, if that is so. Health and readiness follow it.
    """

    def __init__(
        self,
        service: Service,
        *,
        address: str = "127.0.0.1:0",
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        trouble: Callable[[], str | None] = lambda: None,
        readiness: Readiness | None = None,
    ) -> None:
        self._service = service
        self._trouble = trouble
        self._readiness = readiness or Readiness()
        self._watching: asyncio.Task[None] | None = None
        self._wanted_address = address
        self._max_message_bytes = max_message_bytes
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self.address = address

    async def start(self) -> str:
        """Starts the service, then opens the port. Returns host:port with the real port.

        Raises PortTaken, and what makes the service fail to start, which is then stopped again.
        """
        server = grpc.aio.server(
            interceptors=[RefusalInterceptor(self._service.name)],
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", MAX_WINDOW_BYTES),
                # Without this a second server on the same port would silently share its connections.
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                *_PING,
            ],
        )
        names = self._service.bind(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        self.address = self._take_port(server)
        try:
            await self._service.start()
        except BaseException:
            await self._service.stop()  # what it had started by then
            raise
        await server.start()
        self._server = server
        await self._tell(names, None)
        ready_s = self._readiness.begin(self._service.name)
        self._watching = asyncio.create_task(self._watch(names))
        log.info("service started", name=self._service.name, address=self.address, ready_s=round(ready_s, 3))
        return self.address

    async def stop(self, grace_s: float = 1.0) -> None:
        """Says that it is not serving, drains the service, and gives calls in progress `grace_s` to end."""
        if self._server is None:
            return
        if self._watching is not None:
            self._watching.cancel()
        self._readiness.trouble = "it is stopping"
        await self._health.enter_graceful_shutdown()
        await self._service.stop()
        await self._server.stop(grace_s)
        self._server = None
        log.info("service stopped", name=self._service.name)

    async def _watch(self, names: Sequence[str]) -> None:
        while True:
            await asyncio.sleep(_TROUBLE_EVERY_S)
            trouble = self._trouble()
            if trouble != self._readiness.trouble:
                log.warning("readiness changed", name=self._service.name, trouble=trouble)
                self._readiness.trouble = trouble
                await self._tell(names, trouble)

    async def _tell(self, names: Sequence[str], trouble: str | None) -> None:
        answer = health_pb2.HealthCheckResponse
        for name in ("", *names):
            await self._health.set(name, answer.NOT_SERVING if trouble else answer.SERVING)

    def _take_port(self, server: grpc.aio.Server) -> str:
        host, _, port = self._wanted_address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise BadSetting(
                f"{self._service.name} was told to listen on {self._wanted_address!r}; it must be host:port,"
                " the port from 0 to 65535"
            )
        try:
            taken_port = server.add_insecure_port(self._wanted_address)
        except RuntimeError as error:
            raise PortTaken(
                f"{self._service.name} cannot listen on {self._wanted_address}: port {port} is in use or not "
                "ours to take; stop the other program, or choose another port (0 takes a free one)"
            ) from error
        return f"{host}:{taken_port}"


class RefusalInterceptor(grpc.aio.ServerInterceptor):
    """Turns a ServiceError into its status; anything else is INTERNAL and logged with its traceback."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        found = await continuation(handler_call_details)
        if found is None:  # not one of our methods: grpc answers UNIMPLEMENTED itself
            return None
        method = handler_call_details.method
        # grpc.aio gives each kind of method its own attribute and its own constructor.
        behaviour: Any = found.unary_unary or found.stream_unary or found.unary_stream or found.stream_stream

        async def answer(request: Any, context: Context) -> Any:
            try:
                return await behaviour(request, context)
            except Exception as error:
                return await self._refuse(error, method, context)

        async def stream(request: Any, context: Context) -> None:
            try:
                produced = behaviour(request, context)
                if not hasattr(produced, "__aiter__"):
                    await produced
                    return
                # Closed here, not by the garbage collector: a cancelled call must let go of its seat at once.
                async with aclosing(cast(typing.AsyncGenerator[Any, None], produced)) as responses:
                    async for response in responses:
                        await context.write(response)
            except grpc.aio.InternalError as error:
                # So ends a write to a client that has gone: there is nobody left to be told.
                log.info("client left", name=self._service_name, method=method, error=str(error))
            except Exception as error:
                await self._refuse(error, method, context)

        codec = {
            "request_deserializer": found.request_deserializer,
            "response_serializer": found.response_serializer,
        }
        kind = ("stream" if found.request_streaming else "unary") + (
            "_stream" if found.response_streaming else "_unary"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(stream if found.response_streaming else answer, **codec)

    async def _refuse(self, error: Exception, method: str, context: Context) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        refusal = refusal_in(error)
        if refusal is None:
            log.exception("call failed", error, name=self._service_name, method=method)
            refusal = ServiceError(f"{method} failed inside the service; its log has the traceback")
        else:
            log.info("call refused", name=self._service_name, method=method, reason=refusal.reason)
        await context.abort(refusal.code, refusal.message, refusal.trailing_metadata())


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to another service of ours, with the message size and the pings that Host expects."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_WINDOW_BYTES),
            ("grpc.max_send_message_length", MAX_WINDOW_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            *_PING,
        ],
    )


async def until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts of a stream side by side until one ends or fails, then cancels the others and waits.

    Raises what the first failed part raised. Being cancelled cancels all parts: nothing is left behind.
    """
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def run(
    settings_class: type[R],
    made: Callable[[R], V],
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    trouble: Callable[[V], str | None] = lambda service: None,
) -> None:
    """Runs the service that `made` makes of settings from the environment until SIGINT or SIGTERM drain it.

    What every __main__.py calls; a refusal ends the process with its sentence.
    """
    try:
        settings = settings_from_env(settings_class)
        service = made(settings)
        telemetry.start_logging()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            readiness = Readiness()
            host = Host(
                service,
                address=settings.address,
                max_message_bytes=max_message_bytes,
                trouble=lambda: trouble(service),
                readiness=readiness,
            )
            if settings.metrics_port:
                status.serve(settings.address.rpartition(":")[0], settings.metrics_port, readiness)
            runner.run(_run_until_signalled(host))
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal


async def _run_until_signalled(host: Host) -> None:
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    await host.start()
    await signalled.wait()
    await host.stop()
