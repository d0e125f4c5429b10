"""`WebService`: serves the page, and plays a session for each page that is open.

It is a client of the other services like any game engine. What it adds is a WebSocket, since browsers do not
speak gRPC: text messages are JSON, binary messages are frames behind a header of 16 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from aiohttp import WSCloseCode, web

from services import telemetry
from services.app import open_channel
from services.channel import Channel
from services.credentials import from_file_or_environment
from services.errors import PortTaken
from services.settings import check
from services.tls import Tls, public_identity, server_context
from services.web.player import PagePlayer

PAGE = Path(__file__).parent / "page"
MAX_MESSAGE_BYTES = 16_384  # a page says little: keys, and which frames it has shown
log = telemetry.logger("web")


@dataclass(frozen=True)
class Settings:
    """From the environment; the variable is the field's name in capitals."""

    address: str = "127.0.0.1:50055"  # gRPC, for health alone, host:port
    metrics_port: int = 0  # 0: no metrics
    page_address: str = "127.0.0.1:8080"  # where browsers find the page; port 0 takes a free one
    sessions_address: str = "127.0.0.1:50052"  # where *sessions* lets players in, host:port
    control_address: str = "127.0.0.1:50051"  # of *control*, host:port
    frames_address: str = "127.0.0.1:50054"  # of *decoder*, host:port
    api_key_file: str = ""  # of the tenant's key that every page plays with; empty: AAPT_API_KEY
    tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        check(self)


class WebService:
    """One page, any number of players."""

    name = "web"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api_key = from_file_or_environment(settings.api_key_file)
        self._channels: dict[str, Channel] = {}
        self._runner: web.AppRunner | None = None
        self._players: set[PagePlayer] = set()
        self.page_address = settings.page_address
        self.page_url = ""

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return ()

    async def start(self) -> None:
        """Open the page's port. Raises PortTaken."""
        wanted = self._settings
        self._channels = {
            address: open_channel(address, wanted.tls)
            for address in {wanted.sessions_address, wanted.control_address, wanted.frames_address}
        }
        application = web.Application()
        application.router.add_get("/", self._index)
        application.router.add_get("/play", self._play)
        application.router.add_static("/page", PAGE)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        host, _, port = wanted.page_address.rpartition(":")
        identity = public_identity(wanted.tls)
        shown = server_context(identity) if identity else None
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port), ssl_context=shown).start()
        except OSError as error:
            await self.stop()
            raise PortTaken(
                f"the page cannot be served on {wanted.page_address}: {error.strerror};"
                " stop the other program, or choose another port (0 takes a free one)"
            ) from error
        self.page_address = f"{host}:{self._runner.addresses[0][1]}"
        self.page_url = f"{'https' if shown else 'http'}://{self.page_address}"
        log.info("page opened", url=self.page_url)

    def trouble(self) -> str | None:
        """Why nobody can play, where that is so."""
        return next(filter(None, (channel.trouble("a service") for channel in self._channels.values())), None)

    async def stop(self) -> None:
        """Tell every page that it is over, and close."""
        for player in list(self._players):
            await player.socket.close(code=WSCloseCode.GOING_AWAY, message=b"the service stops")
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for channel in self._channels.values():
            await channel.close()
        self._channels = {}

    async def _index(self, request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _play(self, request: web.Request) -> web.WebSocketResponse:
        telemetry.begin_call()
        _check_origin(request)
        socket = web.WebSocketResponse(heartbeat=5.0, max_msg_size=MAX_MESSAGE_BYTES, compress=False)
        await socket.prepare(request)
        wanted = self._settings
        player = PagePlayer(
            socket,
            sessions=self._channels[wanted.sessions_address],
            control=self._channels[wanted.control_address],
            frames=self._channels[wanted.frames_address],
            api_key=self._api_key,
        )
        self._players.add(player)
        try:
            await player.play()
        finally:
            self._players.discard(player)
        return socket


def _check_origin(request: web.Request) -> None:
    """Browsers let any page open a WebSocket anywhere; seats here are for our own page alone."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise web.HTTPForbidden(
            text=f"a page from {origin[:200]} asked to play at {request.host}; open {request.scheme}://{request.host}/"
        )
