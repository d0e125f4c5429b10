"""All services on ports of their own, in this process: whoever is struck is gone without a word."""

import asyncio
from typing import TYPE_CHECKING

import grpc

from aapt.checkpoint import Model
from aapt.rollout import Rollout
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import FRAME_FORMAT_RGB8
from livevideo.v1.frame_pb2_grpc import FrameServiceStub
from livevideo.v1.session_pb2 import GetRequest, ListModelsRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from livevideo_client.comeback import Sender, Viewer
from services import app
from services.control.service import ControlService
from services.control.service import Settings as ControlSettings
from services.credentials import bearer
from services.decoder.codec import streaming
from services.decoder.service import DecoderService
from services.decoder.service import Settings as DecoderSettings
from services.engine.model import described
from services.engine.service import EngineService
from services.engine.service import Settings as EngineSettings
from services.engine.world import on_one_device
from services.sessions.embedded import EmbeddedValkey
from services.sessions.service import SessionService
from services.sessions.service import Settings as SessionsSettings
from services.sessions.tenants import TenantStore
from services.tls import Tls
from tests.services.certificates import Authority

if TYPE_CHECKING:
    from livevideo.v1.session_pb2_grpc import SessionServiceAsyncStub

READY_S = 60.0


class Fleet:
    """Two engines and two decoders, *sessions* and *control*, each with a public and an internal port."""

    def __init__(self, model: Model, authority: Authority | None = None) -> None:
        """authority: signs a certificate for each; None: all is plain text."""
        self._model = model
        self._authority = authority
        self._hosts: dict[str, app.Host] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._sessions: SessionService | None = None
        self.store = EmbeddedValkey()
        self.worlds: dict[str, Rollout] = {}  # of the engines, by name
        self.engines: list[EngineService] = []

    def tls(self, name: str) -> Tls:
        """What a service of this name is set to."""
        return self._authority.tls(name) if self._authority else Tls()

    async def start(self) -> None:
        await self.store.start()
        settings = SessionsSettings(redis_url=self.store.url, tls=self.tls("sessions"))
        self._sessions = SessionService(settings)
        sessions = await self._host("sessions", self._sessions)
        control = ControlSettings(sessions_address=sessions, tls=self.tls("control"))
        await self._host("control", ControlService(control))
        for number in (1, 2):
            name = f"engine-{number}"
            chosen = EngineSettings(
                sessions_address=sessions,
                replica=name,
                snapshot_period_s=0.3,
                warm_up_steps=0,
                tls=self.tls(name),
            )
            self.worlds[name] = world = on_one_device(self._model, 2)
            engine = EngineService(world, described(self._model.preset), chosen)
            self.engines.append(engine)
            engine.reached_at(await self._host(name, engine))
            decoder = DecoderSettings(sessions_address=sessions, tls=self.tls(f"decoder-{number}"))
            await self._host(f"decoder-{number}", DecoderService(streaming(self._model.vae), decoder))
        async with asyncio.timeout(READY_S):
            while not (await self.sessions.ListModels(ListModelsRequest())).models:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        for name in reversed(self._hosts):
            await self.leave(name, grace_s=0.1)
        await self.store.stop()

    async def strike(self, name: str) -> None:
        """As SIGKILL would, as far as the others can see."""
        for port in self._hosts[name]._ports:
            await port.server.stop(0)

    async def leave(self, name: str, grace_s: float = 1.0) -> None:
        """As after SIGTERM."""
        await self._hosts[name].stop(grace_s)

    @property
    def sessions(self) -> "SessionServiceAsyncStub":
        return SessionServiceStub(self._channels["sessions"])

    @property
    def tenants(self) -> TenantStore:
        assert self._sessions is not None
        return self._sessions._there().tenants

    @property
    def internal_address(self) -> str:
        """Where our own services call *sessions*."""
        return self._hosts["sessions"].internal_address

    async def playing(self, session: Session) -> str:
        """The name of the engine that plays it."""
        asked = GetRequest(session_id=session.session_id)
        return (await self.sessions.Get(asked, metadata=bearer(session.token))).replica

    def viewer(self, session: Session) -> Viewer:
        decoders = [FrameServiceStub(self._channels[f"decoder-{number}"]) for number in (1, 2)]
        return Viewer(decoders, session, FRAME_FORMAT_RGB8)

    def sender(self, session: Session) -> Sender:
        return Sender([ControlServiceStub(self._channels["control"])], session)

    async def _host(self, name: str, service: app.Service) -> str:
        """Its internal address; players have a channel to the public one."""
        # Two ports, since the addresses differ; both are free ones.
        host = app.Host(service, address="127.0.0.1:0", internal_address="127.0.0.1:00", tls=self.tls(name))
        self._hosts[name] = host
        await host.start()
        believed = Tls(tls_ca_file=self._authority.file) if self._authority else Tls()
        self._channels[name] = app.open_channel(host.address, believed)
        return host.internal_address
