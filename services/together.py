"""Every service in one process, as `make play` and the tests run them.

The services speak gRPC to each other here as they do on a cluster; they only share a port.
"""

import asyncio
import logging
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from livevideo.v1 import session_pb2_grpc
from livevideo.v1.session_pb2 import ListModelsRequest
from services import app, status, telemetry
from services.app import Host, Service
from services.control.service import ControlService
from services.control.service import Settings as ControlSettings
from services.decoder.codec import streaming
from services.decoder.service import DecoderService
from services.decoder.service import Settings as DecoderSettings
from services.engine.launch import deployed, until_ended
from services.engine.model import described, load
from services.engine.service import EngineService
from services.engine.service import Settings as EngineSettings
from services.engine.world import on_one_device
from services.errors import BadSetting, ServiceError
from services.ports import InternalService
from services.relay import refusal_in
from services.sessions.connection import RedisAccess
from services.sessions.service import SessionService
from services.sessions.service import Settings as SessionsSettings
from services.status import Readiness
from services.tls import Tls
from services.tracing import Sampling, Tracing
from services.web.service import Settings as WebSettings
from services.web.service import WebService

log = telemetry.logger("together")

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
READY_S = 30.0
INTERNAL_HOST = "127.0.0.1"
DECODER_HEADROOM = 0.5  # the engine's steps take their share of the same process
DEPLOYED_S = 180.0  # Ray starts, then every replica


@dataclass(frozen=True)
class Settings:
    """What to play, and where it listens. Port 0 takes a free one."""

    checkpoint: Path = CHECKPOINTS / "road"
    host: str = "127.0.0.1"
    grpc_port: int = 50051
    web_port: int = 8080
    metrics_port: int = 0  # 0: no metrics
    frames_per_second: float = 0.0  # 0: the model's own
    slots: int = 4
    redis_url: str = field(default="", repr=False)  # empty: an embedded Valkey
    redis: RedisAccess = field(default_factory=RedisAccess)
    tls: Tls = field(default_factory=Tls)
    tracing: Tracing = field(default_factory=Tracing)
    sampling: Sampling = field(default_factory=Sampling)
    replicas: int = 0  # of the engine on Ray; 0: one engine, in this process
    shards: int = 1  # ranks of each replica on Ray
    lease_s: float = 30.0  # a session keeps its seat so long unwatched
    internal_port: int = 0  # for our own services, on this machine only; 0: a free one
    admin_port: int | None = None  # where tenants are administered; None: nowhere
    api_key_file: str = ""  # with tenants: the key that the page plays with; empty: AAPT_API_KEY


@dataclass(frozen=True)
class Addresses:
    """Where a running world is reached: host:port of every gRPC service, and the page.

    until_broken: never ends, but for a ServiceError when the world can no longer be played.
    """

    grpc: str
    page: str
    internal: str
    admin: str
    until_broken: Callable[[], Coroutine[Any, Any, None]]


class Together:
    """Several services bound to the same ports, started in order; those that were started stop in reverse."""

    name = "play"

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._started: list[Service] = []

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return [name for service in self._services for name in service.bind(server)]

    def bind_internal(self, server: grpc.aio.Server) -> Sequence[str]:
        internal = [service for service in self._services if isinstance(service, InternalService)]
        return [name for service in internal for name in service.bind_internal(server)]

    async def start(self) -> None:
        for service in self._services:
            self._started.append(service)
            await service.start()

    async def stop(self) -> None:
        while self._started:
            service = self._started.pop()
            try:
                await service.stop()
            except Exception as error:  # the others are stopped all the same
                log.exception("service not stopped", error, name=service.name)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Addresses]:
    """Everything, up and ready, for as long as the block lasts. Raises a ServiceError where it cannot be."""
    free_port, readiness = _free_port(settings.host), Readiness()
    if settings.metrics_port:
        status.serve(settings.host, settings.metrics_port, readiness, settings.tls)
    model = load(settings.checkpoint)
    address = _address(settings.host, settings.grpc_port or free_port)
    # Nobody but ourselves calls there, also where players come from other machines.
    internal = _address(INTERNAL_HOST, settings.internal_port or _free_port(INTERNAL_HOST))
    engine = EngineSettings(
        address=internal,
        advertised_address=internal,
        sessions_address=internal,
        tls=settings.tls,
        tracing=settings.tracing,
        slots=settings.slots,
        checkpoint=str(settings.checkpoint.absolute()),
        is_drained=False,  # there is nowhere to go
    )
    admin_port = settings.admin_port
    sessions = SessionService(
        SessionsSettings(
            address=address,
            redis_url=settings.redis_url,
            redis=settings.redis,
            lease_s=settings.lease_s,
            admin_address="" if admin_port is None else _address("127.0.0.1", admin_port),
            tls=settings.tls,
            tracing=settings.tracing,
        )
    )
    control = ControlSettings(
        address=address,
        sessions_address=internal,
        tls=settings.tls,
        tracing=settings.tracing,
        sampling=settings.sampling,
    )
    services: list[Service] = [
        sessions,
        ControlService(control),
        DecoderService(
            streaming(model.vae),
            DecoderSettings(
                address=address,
                sessions_address=internal,
                headroom=DECODER_HEADROOM,
                tls=settings.tls,
                tracing=settings.tracing,
            ),
        ),
    ]
    here: EngineService | None = None
    if not settings.replicas:
        told = described(model.preset, settings.frames_per_second)
        here = EngineService(on_one_device(model, settings.slots), told, engine)
        services.append(here)
    together = Together(services)
    host = Host(
        together,
        address=address,
        internal_address=internal,
        tls=settings.tls,
        trouble=lambda: sessions.trouble() or (here.trouble() if here else None),
        readiness=readiness,
    )
    web = WebService(
        WebSettings(
            page_address=_address(settings.host, settings.web_port),
            sessions_address=address,
            control_address=address,
            frames_address=address,
            api_key_file=settings.api_key_file,
            tls=settings.tls,
        )
    )
    stack = AsyncExitStack()
    # Each is harmless where nothing was started; a host that did not start to its end stops nothing.
    for stop in (together.stop, host.stop, web.stop):
        stack.push_async_callback(stop)
    try:
        deployment = await _start(host, settings, engine, stack)
        await web.start()

        async def until_broken() -> None:
            await (asyncio.Event().wait() if deployment is None else until_ended(deployment))

        yield Addresses(address, web.page_url, internal, sessions.admin_address, until_broken)
    finally:
        await app.to_its_end(stack.aclose())


async def _start(
    host: Host, settings: Settings, engine: EngineSettings, stack: AsyncExitStack
) -> Process | None:
    """Until a player could come; the engine's deployment, where it is one. Raises a ServiceError that says
    what to look at."""
    deployment: Process | None = None
    look_at = "--redis-url" if settings.redis_url else "the log above"
    within_s = DEPLOYED_S if settings.replicas else READY_S
    try:
        await host.start()
        if settings.replicas:
            deployment = await stack.enter_async_context(_deployed(settings, engine))
            await app.until_one_ends(
                _until_announced(host.address, settings.tls, within_s), until_ended(deployment)
            )
        else:
            await _until_announced(host.address, settings.tls, within_s)
        return deployment
    except ValueError as error:
        raise BadSetting(f"the services could not be started (look at {look_at}): {error}") from error
    except TimeoutError as error:
        raise ServiceError(
            f"the engine did not announce itself within {within_s:g} s; --log-level INFO says more"
        ) from error
    except grpc.aio.AioRpcError as error:
        said = refusal_in(error) or error.details()
        raise ServiceError(
            f"the services were started, but do not serve (look at {look_at}): {said}"
        ) from error


def _deployed(settings: Settings, engine: EngineSettings) -> AbstractAsyncContextManager[Process]:
    return deployed(
        engine,
        replicas=settings.replicas,
        shards=settings.shards,
        frames_per_second=settings.frames_per_second,
        start_s=DEPLOYED_S,
        log_level=logging.getLevelName(logging.getLogger().getEffectiveLevel()),
    )


async def _until_announced(address: str, tls: Tls, within_s: float) -> None:
    """Until *sessions* knows of the engine: who comes before that would be refused."""
    async with app.open_channel(address, tls) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        async with asyncio.timeout(within_s):
            while not (await stub.ListModels(ListModelsRequest())).models:  # noqa: ASYNC110 (another service)
                await asyncio.sleep(0.05)


def _free_port(host: str) -> int:
    """Raises BadSetting for a host that is no address of this machine."""
    try:
        [family, *_, address] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, UnicodeError) as error:
        raise BadSetting(
            f"--host {host} is no address that this machine can listen on ({error});"
            " 127.0.0.1 is for this machine only, 0.0.0.0 for all that can reach it"
        ) from error


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
