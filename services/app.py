"""The one way to be a service: settings, ports, health, metrics, signals, drain."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import uvloop
from grpc_health.v1 import health, health_pb2

from services import calls, ports, status, telemetry
from services.channel import Channel
from services.errors import ServiceError
from services.ports import InternalService, internal_port, public_port
from services.settings import help_text, settings_from_env
from services.status import Readiness
from services.tls import Tls, caller_identity

STOP_S = 60.0  # longest clean-up: a deployment on Ray takes 45 s to end, then every service stops
_TROUBLE_EVERY_S, _AT_FIRST_EVERY_S = 1.0, 0.1

_log = telemetry.logger("app")

Context: TypeAlias = calls.Context
Service: TypeAlias = ports.Service


class RunSettings(Protocol):
    """Settings that every service has."""

    @property
    def address(self) -> str: ...

    @property
    def metrics_port(self) -> int: ...

    @property
    def tls(self) -> Tls: ...


R = TypeVar("R", bound=RunSettings)
V = TypeVar("V", bound=Service)


class Host:
    """One service on its gRPC ports: for players, and for our own services where it has methods for them.

    trouble: asked at the start and every second why nobody can be served, if that is so. Health and readiness
    follow it.
    """

    def __init__(
        self,
        service: Service,
        *,
        address: str = "127.0.0.1:0",
        internal_address: str = "",
        tls: Tls | None = None,
        trouble: Callable[[], str | None] = lambda: None,
        readiness: Readiness | None = None,
    ) -> None:
        """`internal_address`: where every method is served; empty, or the same: at `address`."""
        self._service = service
        self._tls = tls or Tls()
        self._trouble = trouble
        self._readiness = readiness or Readiness()
        self._watching: asyncio.Task[None] | None = None
        self._health = health.aio.HealthServicer()
        self._ports: list[ports.Port] = []
        self._log = telemetry.logger(service.name)
        self.address = address
        self.internal_address = internal_address

    async def start(self) -> str:
        """Starts the service, then opens the ports. Returns host:port with the real port, for players.

        Raises PortTaken, BadSetting, and what makes the service fail to start, which is then stopped again.
        """
        opened = self._open()
        try:
            await self._service.start()
        except BaseException:
            await to_its_end(self._service.stop())  # what it had started by then
            raise
        for port in opened:
            await port.server.start()
        self._ports = opened
        trouble = self._trouble()
        await self._tell(trouble)
        self._watching = asyncio.create_task(self._watch())
        where = {"address": self.address, "internal_address": self.internal_address}
        self._log.info("service started", **where, ready_s=self._readiness.began_s, trouble=trouble)
        return self.address

    async def stop(self, grace_s: float = 1.0) -> None:
        """Says that it is not serving, drains the service, and gives calls in progress `grace_s` to end."""
        if not self._ports:
            return
        if self._watching is not None:
            self._watching.cancel()
        self._readiness.trouble = "it is stopping"
        await self._health.enter_graceful_shutdown()
        await self._service.stop()
        await asyncio.gather(*(port.server.stop(grace_s) for port in self._ports))
        self._ports = []
        self._log.info("service stopped")

    def _open(self) -> list[ports.Port]:
        """Nobody is let in yet."""
        service, tls = self._service, self._tls
        is_one = self.internal_address in ("", self.address)
        has_internal = isinstance(service, InternalService)
        first = internal_port if is_one and has_internal else public_port
        opened = [first(service, self.address, tls, self._health)]
        self.address = opened[0].address
        if is_one or not has_internal:
            self.internal_address = self.address
        else:
            opened.append(internal_port(service, self.internal_address, tls, self._health))
            self.internal_address = opened[1].address
        return opened

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_AT_FIRST_EVERY_S if self._readiness.began_s is None else _TROUBLE_EVERY_S)
            trouble = self._trouble()
            if trouble != self._readiness.trouble:
                self._log.warning("readiness changed", trouble=trouble)
                await self._tell(trouble)

    async def _tell(self, trouble: str | None) -> None:
        if trouble is None:
            self._readiness.begin(self._service.name)
        else:
            self._readiness.trouble = trouble
        answer = health_pb2.HealthCheckResponse
        for name in {"", *(name for port in self._ports for name in port.names)}:
            await self._health.set(name, answer.NOT_SERVING if trouble else answer.SERVING)


def open_channel(address: str, tls: Tls | None = None) -> Channel:
    """A channel to another service of ours, with the message size and the pings that Host expects."""
    wanted = tls or Tls()
    named = (("grpc.ssl_target_name_override", wanted.tls_peer_name),) if wanted.tls_peer_name else ()
    return Channel(
        address,
        caller_identity(wanted),
        [
            ("grpc.max_receive_message_length", ports.MAX_WINDOW_BYTES),
            ("grpc.max_send_message_length", ports.MAX_WINDOW_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            # Despite its name the time that making a connection may take: on a busy machine TLS needs some.
            ("grpc.min_reconnect_backoff_ms", 2000),
            ("grpc.max_reconnect_backoff_ms", 1000),
            *named,
            *ports.PING,
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


async def to_its_end(clean_up: Coroutine[Any, Any, None], within_s: float = STOP_S) -> None:
    """Waits for a clean-up, also where the one who waits is cancelled meanwhile.

    What failed first is raised: of an `except` or a `finally`, what it is there for, and no more from here.
    """
    has_failed, cancelled = sys.exception() is not None, None
    clock = asyncio.get_running_loop().time
    task, until_s = asyncio.create_task(clean_up), clock() + within_s
    while not task.done() and clock() < until_s:
        try:
            await asyncio.wait([task], timeout=until_s - clock())
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    failure: BaseException | None = None
    if task.done():
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
    elif task.cancel():
        failure = TimeoutError(f"a clean-up took more than {within_s:g} s and was given up")
    if failure is not None:
        _log.exception("not cleaned up", failure)
    if not has_failed and (first := cancelled or failure):
        raise first


def run(
    settings_class: type[R],
    made: Callable[[R], V],
    *,
    internal_address: Callable[[R], str] = lambda settings: "",
    trouble: Callable[[V], str | None] = lambda service: None,
) -> None:
    """Runs the service that `made` makes of settings from the environment until SIGINT or SIGTERM drain it.

    What every __main__.py calls; a refusal ends the process with its sentence. Metrics are served, and
    readiness is refused, from before `made` is asked: it may take long.
    """
    package = settings_class.__module__.rpartition(".")[0]
    read_options(package, settings_class)
    try:
        settings = settings_from_env(settings_class)
        telemetry.start_logging(service=package.rpartition(".")[2])
        readiness = Readiness()
        if settings.metrics_port:
            listen_host = settings.address.rpartition(":")[0]
            status.serve(listen_host, settings.metrics_port, readiness, settings.tls)
        service = made(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            host = Host(
                service,
                address=settings.address,
                internal_address=internal_address(settings),
                tls=settings.tls,
                trouble=lambda: trouble(service),
                readiness=readiness,
            )
            runner.run(_run_until_signalled(host))
    except ServiceError as refusal:
        raise SystemExit(refusal.message) from refusal


def read_options(module: str, *settings: type[object], words: Sequence[str] | None = None) -> None:
    """Only --help, which tells the settings: they come from the environment."""
    argparse.ArgumentParser(
        prog=f"python -m {module}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=help_text(*settings),
    ).parse_args(words)


def set_in_stone() -> None:
    """To be called once a process is ready: what it has made by then stays, and is not looked through again.

    Now and then Python would otherwise walk through all that torch and gRPC consist of, for 60 ms in which no
    frame is sent.
    """
    gc.collect()
    gc.freeze()


async def _run_until_signalled(host: Host) -> None:
    signalled = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    await host.start()
    set_in_stone()
    await signalled.wait()
    await host.stop()
