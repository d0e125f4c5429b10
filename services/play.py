"""Every service in one process: what `make play` runs, and what tests and newcomers play with.

The services speak gRPC to each other here as they do on a cluster; they only share a port.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve the others

import grpc
import uvloop

from aapt import checkpoint
from aapt.rollout import Rollout
from livevideo.v1 import session_pb2_grpc
from livevideo.v1.session_pb2 import ListModelsRequest, Model
from services import app, telemetry
from services.app import Host, Service
from services.control.service import ControlService
from services.control.service import Settings as ControlSettings
from services.decoder.service import DecoderService
from services.decoder.service import Settings as DecoderSettings
from services.engine.service import EngineService
from services.engine.service import Settings as EngineSettings
from services.errors import BadCheckpoint, ServiceError
from services.sessions.service import SessionService
from services.sessions.service import Settings as SessionsSettings
from services.web.service import Settings as WebSettings
from services.web.service import WebService

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
FAST_ENOUGH_LATE_RATIO = 0.01
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
    """Several services bound to one port, started in order and stopped in reverse."""

    name = "play"

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = services

    def bind(self, server: grpc.aio.Server) -> Sequence[str]:
        return [name for service in self._services for name in service.bind(server)]

    async def start(self) -> None:
        for service in self._services:
            await service.start()

    async def stop(self) -> None:
        for service in reversed(self._services):
            await service.stop()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Addresses]:
    """Everything, up and ready, for as long as the block lasts. Raises BadCheckpoint, PortTaken."""
    try:
        model = checkpoint.load(settings.checkpoint)
    except checkpoint.BadCheckpoint as error:
        raise BadCheckpoint(str(error)) from error
    address = f"{settings.host}:{settings.grpc_port or _free_port(settings.host)}"
    engine_settings = EngineSettings(
        address=address, advertised_address=address, sessions_address=address, slots=settings.slots
    )
    engine = EngineService(
        Rollout(model, settings.slots), _described(model, settings.frames_per_second), engine_settings
    )
    together = Together(
        [
            SessionService(SessionsSettings(address=address, redis_url=settings.redis_url)),
            ControlService(ControlSettings(address=address, sessions_address=address)),
            DecoderService(model.vae, DecoderSettings(address=address, sessions_address=address)),
            engine,
        ]
    )
    host = Host(together, address=address)
    web = WebService(
        WebSettings(
            page_address=f"{settings.host}:{settings.web_port}",
            sessions_address=address,
            control_address=address,
            frames_address=address,
        )
    )
    if settings.metrics_port:
        app.serve_metrics(settings.host, settings.metrics_port)
    await host.start()
    try:
        await _until_announced(address)
        await web.start()
        try:
            yield Addresses(address, f"http://{web.page_address}")
        finally:
            await web.stop()
    finally:
        await host.stop()


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
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def play(settings: Settings, *, opens_browser: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(settings) as addresses:
        print(f"\n  A world is awake. Drive it with the arrow keys:\n\n    page   {addresses.page}")
        print(f"    gRPC   {addresses.grpc}\n\n  Ctrl-C stops it.\n", flush=True)
        if opens_browser and _has_screen():
            webbrowser.open(addresses.page)
        await stopped.wait()


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


async def check(settings: Settings, seconds: float) -> dict[str, Any]:
    """Play recorded keys for `seconds` on free ports, from a process of its own; what the player measured.

    Raises RuntimeError where the player could not play.
    """
    async with running(settings) as addresses:
        address = addresses.grpc
        player = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtests.player", "--script", "road-lap", "--seconds", f"{seconds:g}"),
            *("--sessions", address, "--control", address, "--frames", address, "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await player.communicate()
    lines = output.decode().strip().splitlines()
    if player.returncode or not lines:
        raise RuntimeError(f"the player stopped with {player.returncode}; what it said is above")
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def played_in_real_time(report: dict[str, Any], frames_per_second: float = 24.0) -> bool:
    """Whether a player would have been content: full pace, next to no late frame, none lost or repeated."""
    return bool(
        report["fps"] >= 0.98 * frames_per_second
        and report["late_ratio"] <= FAST_ENOUGH_LATE_RATIO
        and report["index_gaps"] == 0
    )


def main() -> int:
    options = _options()
    telemetry.start_logging(options.log_level)
    chosen = options.checkpoint or CHECKPOINTS / options.preset
    settings = Settings(
        checkpoint=chosen,
        host=options.host,
        grpc_port=0 if options.check else options.grpc_port,
        web_port=0 if options.check else options.web_port,
        metrics_port=options.metrics_port,
        frames_per_second=options.frames_per_second,
        slots=options.slots,
        redis_url=options.redis_url,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            if not options.check:
                runner.run(play(settings, opens_browser=not options.no_browser))
                return 0
            report = runner.run(check(settings, options.check))
        except (ServiceError, RuntimeError) as refusal:
            print(f"cannot play: {refusal}", file=sys.stderr)
            return 2
    is_fast_enough = played_in_real_time(report, options.frames_per_second or 24.0)
    if not options.json:
        print("fast enough: it played in real time" if is_fast_enough else "too slow to play in real time")
    print(json.dumps(report))
    return 0 if is_fast_enough else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.play", description=__doc__)
    parser.add_argument("--preset", default="road", help="which of checkpoints/ to play (default: road)")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder from elsewhere")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--grpc-port", type=int, default=50051, help="0: a free one (default: 50051)")
    parser.add_argument(
        "--web-port", type=int, default=8080, help="of the page; 0: a free one (default: 8080)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page by itself")
    parser.add_argument("--metrics-port", type=int, default=0, help="for Prometheus (default: none)")
    parser.add_argument("--frames-per-second", type=float, default=0.0, help="default: the model's own")
    parser.add_argument(
        "--slots", type=int, default=4, help="sessions at once, if the machine is fast enough"
    )
    parser.add_argument("--redis-url", default="", help="an external Redis or Valkey (default: embedded)")
    parser.add_argument("--log-level", default="WARNING", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    parser.add_argument("--check", type=float, metavar="SECONDS", help="play by itself, measure, and say so")
    parser.add_argument(
        "--json", action="store_true", help="with --check: print nothing but one line of JSON"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
