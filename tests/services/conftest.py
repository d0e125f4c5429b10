"""Real servers on free ports: Valkey, sessions and control, for the tests of every service."""

import asyncio
import types
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from livevideo.v1 import admin_pb2_grpc, control_pb2_grpc
from livevideo.v1.admin_pb2 import NewKey
from livevideo.v1.session_pb2 import AnnounceRequest, Model
from services.app import Host, Service, open_channel
from services.control import service as control
from services.engine.engine import Engine, Tick
from services.sessions import service as sessions
from services.sessions.embedded import EmbeddedValkey
from services.sessions.store import SessionStore, StoreLimits
from tests.services.asking import Sessions
from tests.services.paying import Admin, added
from tests.services.small_world import KEYS, AtOnce, Clock, Counting

Serve = Callable[[Service], Awaitable[str]]
Dial = Callable[[str], grpc.aio.Channel]


@pytest.fixture
def road() -> Model:
    return Model(
        name="road",
        width_px=64,
        height_px=40,
        frames_per_second=24,
        keys=["left", "right", "up", "down"],
        tracks=["keys", "look", "camera", "body", "prompt"],
    )


@pytest.fixture
async def valkey() -> AsyncIterator[EmbeddedValkey]:
    server = EmbeddedValkey()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def valkey_url(valkey: EmbeddedValkey) -> str:
    return valkey.url


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Hosts a service on a free port until the test ends; answers its address."""
    hosts: list[Host] = []

    async def started(service: Service) -> str:
        hosts.append(Host(service))
        return await hosts[-1].start()

    yield started
    for host in reversed(hosts):
        await host.stop(grace_s=0.1)


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens a channel that is closed when the test ends."""
    channels: list[grpc.aio.Channel] = []

    def opened(address: str) -> grpc.aio.Channel:
        channels.append(open_channel(address))
        return channels[-1]

    yield opened
    for channel in channels:
        await channel.close()


@pytest.fixture
def limits() -> StoreLimits:
    """What Redis keeps, and how long; a test module may have its own."""
    return StoreLimits()


@pytest.fixture
async def store(valkey_url: str, limits: StoreLimits) -> AsyncIterator[SessionStore]:
    store = SessionStore(valkey_url, limits, block_s=0.2)
    yield store
    await store.close()


@pytest.fixture
async def patient(valkey_url: str) -> AsyncIterator[SessionStore]:
    """A store whose leases and seats outlive any test."""
    store = SessionStore(valkey_url, StoreLimits(live_seat_s=60, lease_s=60, command_s=5.0))
    yield store
    await store.close()


@pytest.fixture
def sessions_settings(valkey_url: str) -> sessions.Settings:
    """A test module may have its own."""
    return sessions.Settings(redis_url=valkey_url, admin_address="127.0.0.1:0")


@pytest.fixture
def sessions_service(sessions_settings: sessions.Settings, limits: StoreLimits) -> sessions.SessionService:
    return sessions.SessionService(sessions_settings, limits)


@pytest.fixture
async def sessions_address(serve: Serve, sessions_service: sessions.SessionService) -> str:
    return await serve(sessions_service)


@pytest.fixture
def admin_stub(
    dial: Dial, sessions_address: str, sessions_service: sessions.SessionService
) -> "admin_pb2_grpc.AdminServiceAsyncStub":
    return admin_pb2_grpc.AdminServiceStub(dial(sessions_service.admin_address))


@pytest.fixture
async def control_address(serve: Serve, sessions_address: str) -> str:
    return await serve(control.ControlService(control.Settings(sessions_address=sessions_address)))


@pytest.fixture
def session_stub(dial: Dial, sessions_address: str) -> Sessions:
    return Sessions(dial(sessions_address))


@pytest.fixture
def control_stub(dial: Dial, control_address: str) -> "control_pb2_grpc.ControlServiceAsyncStub":
    return control_pb2_grpc.ControlServiceStub(dial(control_address))


@pytest.fixture
def announcement(road: Model) -> AnnounceRequest:
    return AnnounceRequest(replica="engine-1", address="127.0.0.1:1", model=road, slots=2)


@pytest.fixture
def running() -> Callable[[], set["asyncio.Task[object]"]]:
    """Tells which tasks run now; those that gRPC keeps for itself, which are compiled, do not count."""
    return lambda: {task for task in asyncio.all_tasks() if isinstance(task.get_coro(), types.CoroutineType)}


@pytest.fixture
def until_ended(
    running: Callable[[], set["asyncio.Task[object]"]],
) -> Callable[[set["asyncio.Task[object]"]], Awaitable[None]]:
    """Waits until only the tasks of before run; fails with the names of the others when they do not end."""

    async def wait(before: set["asyncio.Task[object]"]) -> None:
        ends_at_s = asyncio.get_running_loop().time() + 20.0
        while left := running() - before:
            assert asyncio.get_running_loop().time() < ends_at_s, [task.get_coro() for task in left]
            await asyncio.wait(left, timeout=0.1)

    return wait


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world() -> Counting:
    return Counting()


@pytest.fixture
def ticks() -> list[Tick]:
    return []


@pytest.fixture
def engine(world: Counting, clock: Clock, ticks: list[Tick]) -> Engine:
    return Engine(
        world, keys=KEYS, frames_per_second=24, executor=AtOnce(), clock=clock, sleep=clock.sleep,
        on_tick=ticks.append,
    )  # fmt: skip


@pytest.fixture
async def acme(admin_stub: Admin, session_stub: Sessions, announcement: AnnounceRequest) -> NewKey:
    """A tenant, and fifty seats."""
    announcement.slots = 50
    await session_stub.Announce(announcement)
    return await added(admin_stub, "acme")
