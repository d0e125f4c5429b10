"""Every service in one process, as `make play` and the tests run them.

The services speak gRPC to each other here as they do on a cluster; they only share a port.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from aapt import checkpoint
from livevideo.v1 import session_pb2_grpc
from livevideo.v1.session_pb2 import ListModelsRequest, Model
from services import app, status
from services.app import Host, Service
from services.control.service import ControlService
from services.control.service import Settings as ControlSettings
from services.decoder.service import DecoderService
from services.decoder.service import Settings as DecoderSettings
from services.engine.service import EngineService
from services.engine.service import Settings as EngineSettings
from services.engine.world import on_one_device
from services.errors import BadCheckpoint, BadSetting, ServiceError, refusal_in
from services.sessions.service import SessionService
from services.sessions.service import Settings as SessionsSettings
from services.status import Readiness
from services.web.service import Settings as WebSettings
from services.web.service import WebService

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
READY_S = 30.0


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
    redis_url: str = ""  # empty: an embedded Valkey


@dataclass(frozen=True)
class Addresses:
    """Where a running world is reached: host:port of every gRPC service, and the page."""

    grpc: str
    page: str


class Together:
    """Several services bound to one port, started in order; those that were started stop in reverse."""

    name = "play"

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services
        self._started: list[Service] = []

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return [name for service in self._services for name in service.bind(server)]

    async def start(self) -> None:
        for service in self._services:
            self._started.append(service)
            await service.start()

    async def stop(self) -> None:
        while self._started:
            await self._started.pop().stop()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Addresses]:
    """Everything, up and ready, for as long as the block lasts. Raises a ServiceError where it cannot be."""
    free_port = _free_port(settings.host)
    try:
        model = checkpoint.load(settings.checkpoint)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error
    address = _address(settings.host, settings.grpc_port or free_port)
    engine_settings = EngineSettings(
        address=address, advertised_address=address, sessions_address=address, slots=settings.slots
    )
    engine = EngineService(
        on_one_device(model, settings.slots), _described(model, settings.frames_per_second), engine_settings
    )
    together = Together(
        [
            SessionService(SessionsSettings(address=address, redis_url=settings.redis_url)),
            ControlService(ControlSettings(address=address, sessions_address=address)),
            DecoderService(model.vae, DecoderSettings(address=address, sessions_address=address)),
            engine,
        ]
    )
    readiness = Readiness()
    host = Host(together, address=address, trouble=engine.trouble, readiness=readiness)
    web = WebService(
        WebSettings(
            page_address=_address(settings.host, settings.web_port),
            sessions_address=address,
            control_address=address,
            frames_address=address,
        )
    )
    if settings.metrics_port:
        status.serve(settings.host, settings.metrics_port, readiness)
    async with AsyncExitStack() as stack:
        # Each is harmless where nothing was started; a host that did not start to its end stops nothing.
        for stop in (together.stop, host.stop, web.stop):
            stack.push_async_callback(stop)
        await _start(host, settings, address)
        await web.start()
        yield Addresses(address, f"http://{web.page_address}")


async def _start(host: Host, settings: Settings, address: str) -> None:
    """Until a player could come. Raises a ServiceError that says what to look at."""
    look_at = "--redis-url" if settings.redis_url else "the log above"
    try:
        await host.start()
        await _until_announced(address)
    except ValueError as error:
        raise BadSetting(f"the services could not be started (look at {look_at}): {error}") from error
    except TimeoutError as error:
        raise ServiceError(
            f"the engine did not announce itself within {READY_S:g} s; --log-level INFO says more"
        ) from error
    except grpc.aio.AioRpcError as error:
        said = refusal_in(error) or error.details()
        raise ServiceError(
            f"the services were started, but do not serve (look at {look_at}): {said}"
        ) from error


async def _until_announced(address: str) -> None:
    """Until *sessions* knows of the engine: who comes before that would be refused."""
    async with app.open_channel(address) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        async with asyncio.timeout(READY_S):
            while not (await stub.ListModels(ListModelsRequest())).models:  # noqa: ASYNC110 (another service)
                await asyncio.sleep(0.05)


def _described(model: checkpoint.Model, frames_per_second: float) -> Model:
    preset = model.preset
    return Model(
        name=preset.name,
        width_px=preset.width_px,
        height_px=preset.height_px,
        frames_per_second=frames_per_second or preset.frames_per_second,
        keys=preset.keys,
        tracks=preset.tracks,
    )


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
