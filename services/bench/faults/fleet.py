"""`Fleet`: all services, each in a process of its own, and links between them that can be cut."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from livevideo.v1.session_pb2 import GetRequest, ListModelsRequest
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services.bench.faults.links import Link
from services.bench.faults.processes import AOF_FOLDER, READY_S, Process, Valkey, service

_AGAIN_S = 0.1


@dataclass(frozen=True)
class Size:
    """How many processes of each kind; there is one Valkey."""

    sessions: int = 2
    controls: int = 2
    engines: int = 3
    decoders: int = 2


@dataclass
class Fleet:
    """Processes by name, and the links by who calls and who is called."""

    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)
    links: dict[tuple[str, str], Link] = field(default_factory=dict)

    def of(self, kind: str) -> list[Process]:
        """All processes of a kind, e.g. "engine"."""
        return [each for each in self.processes.values() if each.kind == kind]

    def addresses(self, kind: str) -> list[str]:
        """Where players reach them."""
        return [each.address for each in self.of(kind)]

    def between(self, caller: str, called: str) -> list[Link]:
        """The links from one kind, or one process, to another."""
        return [
            link
            for (one, other), link in self.links.items()
            if caller in (one, one.partition("-")[0]) and called in (other, other.partition("-")[0])
        ]

    async def engine_of(self, session_id: str) -> str:
        """Name of the engine that holds a session's seat."""
        async with grpc.aio.insecure_channel(target(self.addresses("sessions"))) as channel:
            stub = SessionServiceStub(channel)
            session = await stub.Get(GetRequest(session_id=session_id), timeout=5.0, wait_for_ready=True)
        return next(
            called for (_, called), link in self.links.items() if link.address == session.replica_address
        )

    async def mended(self) -> None:
        """Everything runs again, and engines have said so."""
        for link in self.links.values():
            link.mend()
        started = []
        for process in self.processes.values():
            if not process.is_running:
                await process.start()
                started.append(process)
        await asyncio.gather(*(process.until_ready() for process in started))
        await self._until_announced()

    async def _until_announced(self) -> None:
        async with (
            grpc.aio.insecure_channel(target(self.addresses("sessions"))) as channel,
            asyncio.timeout(READY_S),
        ):
            while True:
                try:
                    models = await SessionServiceStub(channel).ListModels(ListModelsRequest(), timeout=2.0)
                except grpc.aio.AioRpcError:
                    models = None
                if models and models.models:
                    return
                await asyncio.sleep(_AGAIN_S)


def target(addresses: Iterable[str]) -> str:
    """One gRPC target for several instances: the first that answers is called, then the next."""
    return "ipv4:" + ",".join(addresses)


@asynccontextmanager
async def running(
    folder: Path,
    checkpoint: Path,
    size: Size,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    *,
    modules: Mapping[str, str] | None = None,
    has_links: bool = True,
) -> AsyncIterator[Fleet]:
    """A fleet for as long as the block lasts, ready for players. Logs and Valkey's file go to `folder`.

    settings: for the environment of a kind, or of one process, by its name. modules: what a kind runs instead
    of our own service. has_links: without them services call each other directly, and nothing can be cut.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (before anything else runs)
    shutil.rmtree(folder / AOF_FOLDER, ignore_errors=True)  # sessions and engines of another fleet
    fleet = Fleet(folder)
    try:
        await _built(fleet, checkpoint, size, modules or {}, has_links)
        for name, chosen in (settings or {}).items():
            for process in fleet.processes.values():
                if name in (process.kind, process.name):
                    process.environ.update(chosen)
        await fleet.mended()
        yield fleet
    finally:
        await asyncio.gather(*(process.stop() for process in fleet.processes.values()))
        await asyncio.gather(*(link.close() for link in fleet.links.values()))


async def _built(
    fleet: Fleet, checkpoint: Path, size: Size, modules: Mapping[str, str], has_links: bool
) -> None:
    async def linked(caller: str, called: Process) -> str:
        if not has_links:
            return called.address
        link = fleet.links[caller, called.name] = Link(called.address)
        await link.open()
        return link.address

    def add(process: Process) -> Process:
        fleet.processes[process.name] = process
        return process

    def add_service(name: str, environ: Mapping[str, str]) -> Process:
        return add(service(name, environ, fleet.folder, modules.get(name.partition("-")[0], "")))

    async def sessions_for(caller: str, number: int) -> dict[str, str]:
        """Instances take turns in being the first that is called."""
        sessions = fleet.of("sessions")
        turned = [sessions[(number + i) % len(sessions)] for i in range(len(sessions))]
        return {"SESSIONS_ADDRESS": target([await linked(caller, each) for each in turned])}

    valkey = add(Valkey(fleet.folder))
    played = {"CHECKPOINT": str(checkpoint), "DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    for number in range(1, size.sessions + 1):
        name = f"sessions-{number}"
        add_service(name, {"REDIS_URL": f"redis://{await linked(name, valkey)}"})
    for number in range(1, size.controls + 1):
        name = f"control-{number}"
        add_service(name, await sessions_for(name, number))
    for number in range(1, size.engines + 1):
        name = f"engine-{number}"
        engine = add_service(name, played | await sessions_for(name, number))
        engine.environ["ADVERTISED_ADDRESS"] = await linked("decoder", engine)
    for number in range(1, size.decoders + 1):
        name = f"decoder-{number}"
        add_service(name, played | await sessions_for(name, number))
