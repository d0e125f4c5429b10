"""`python -m services.bench.boards`: every dashboard as a picture, over a real run.

Services as processes, players of two tenants, some of whom are refused, an engine that is killed and comes
back, and a Prometheus that scrapes it all; then each panel's queries are asked of it and drawn into
docs/dashboards. Nothing else should run meanwhile.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from livevideo.v1.admin_pb2 import AddTenantRequest, Quotas
from livevideo.v1.admin_pb2_grpc import AdminServiceStub
from livevideo.v1.session_pb2 import OpenRequest
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from loadtests.returning import Instances, ReturningPlayer
from services.bench.boards import prometheus
from services.bench.boards.drawing import Answers, Said, draw
from services.bench.boards.prometheus import Prometheus, Series
from services.bench.faults.fleet import Fleet, Size, running
from services.bench.faults.processes import free_port
from services.credentials import bearer
from services.monitoring.__main__ import FOLDER
from services.monitoring.panels import filled

OUT = Path("docs/dashboards")
RATE_INTERVAL = "15s"
SIZE = Size(sessions=1, controls=1, engines=2, decoders=1)
# Sessions at once of each tenant; one more player of each comes all the while, and is refused.
SEATS = {"acme": 2, "burrow": 1}
STAYS_S = (25.0, 45.0)
CONTROLS_PER_S = {"acme": 0.0, "burrow": 4.0}  # 0: as many as the services take
ASKS_EVERY_S = 4.0
NO_GPU, NOTHING = "This machine has no GPU.", "Nothing of this happened in the run."


@dataclass(frozen=True)
class Scene:
    """What is played on."""

    fleet: Fleet
    keys: Mapping[str, str]  # of the tenants
    seconds: float

    @property
    def instances(self) -> Instances:
        """Where players find the services."""
        of = self.fleet.addresses
        return Instances(of("sessions"), of("control"), of("decoder"))


async def play(scene: Scene) -> None:
    """Players come and go, and an engine dies; for `seconds`."""
    parts = [
        asyncio.create_task(_player(scene, tenant, seed))
        for tenant, seats in SEATS.items()
        for seed in range(seats)
    ]
    parts += [asyncio.create_task(_refused(scene, tenant)) for tenant in SEATS]
    parts.append(asyncio.create_task(_accident(scene)))
    progress: tqdm[Any]
    with tqdm(total=round(scene.seconds), unit="s", file=sys.stderr) as progress:
        for _ in range(round(scene.seconds)):
            await asyncio.sleep(1.0)
            progress.update()
            for part in parts:
                if part.done():
                    part.result()  # raises what ended it before its time
    for part in parts:
        part.cancel()
    await asyncio.gather(*parts, return_exceptions=True)


async def _player(scene: Scene, tenant: str, seed: int) -> None:
    """One session after the other, without end."""
    chance = random.Random(f"{tenant} {seed}")
    while True:
        player = ReturningPlayer(scene.instances, chance.randrange(1, 1000), scene.keys[tenant])
        try:
            with suppress(grpc.aio.AioRpcError):  # refused for long: the next one asks
                await player.begin()
                await asyncio.sleep(chance.uniform(*STAYS_S))
        finally:
            await player.leave()


async def _refused(scene: Scene, tenant: str) -> None:
    """One who asks for more than the tenant may have, again and again."""
    async with grpc.aio.insecure_channel(scene.fleet.addresses("sessions")[0]) as channel:
        while True:
            await asyncio.sleep(ASKS_EVERY_S)
            with suppress(grpc.aio.AioRpcError):
                metadata = bearer(scene.keys[tenant])
                await SessionServiceStub(channel).Open(OpenRequest(), metadata=metadata, timeout=5.0)


async def _accident(scene: Scene) -> None:
    """An engine is killed at a third of the time, and begins again ten seconds later."""
    await asyncio.sleep(scene.seconds / 3)
    scene.fleet.of("engine")[0].send(signal.SIGKILL)
    await asyncio.sleep(10.0)
    await scene.fleet.mended()
    await asyncio.Event().wait()


async def answered(
    asked: Prometheus, board: Mapping[str, Any], start_s: float, end_s: float
) -> dict[int, list[list[Series]]]:
    """What each query of a board says of the run."""
    answers: dict[int, list[list[Series]]] = {}
    for panel in board["panels"]:
        expressions = [filled(target["expr"], RATE_INTERVAL) for target in panel["targets"]]
        if panel["type"] == "stat":
            answers[panel["id"]] = [await asked.now(each) for each in expressions]
        else:
            answers[panel["id"]] = [await asked.course(each, start_s, end_s, 1.0) for each in expressions]
    return answers


@dataclass(frozen=True)
class Run:
    """What Prometheus says of a run: for every board, by its name, between two times since 1970."""

    answers: Mapping[str, Answers]
    between_s: tuple[float, float]
    load: float  # of the machine: processes that ran or wanted to, in its last minute


async def measure(checkpoint: Path, seconds: float) -> Run:
    """Plays."""
    ports = {name: free_port() for name in _names()}
    admin_address = f"127.0.0.1:{free_port()}"
    settings = {name: {"METRICS_PORT": str(port)} for name, port in ports.items()}
    settings["sessions"] = {"ADMIN_ADDRESS": admin_address}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        targets = [f"127.0.0.1:{port}" for port in ports.values()]
        async with (
            running(folder / "fleet", checkpoint, SIZE, settings) as fleet,
            prometheus.running(folder, targets) as asked,
        ):
            keys = {tenant: await _key(admin_address, tenant, seats) for tenant, seats in SEATS.items()}
            start_s = time.time()
            await play(Scene(fleet, keys, seconds))
            end_s, load = time.time(), os.getloadavg()[0]
            answers = {
                path.stem: await answered(asked, json.loads(path.read_text()), start_s, end_s)
                for path in boards()
            }
            return Run(answers, (start_s, end_s), load)


def _names() -> list[str]:
    sizes = {"sessions": SIZE.sessions, "control": SIZE.controls, "engine": SIZE.engines}
    sizes["decoder"] = SIZE.decoders
    return [f"{kind}-{number}" for kind, size in sizes.items() for number in range(1, size + 1)]


async def _key(admin_address: str, tenant: str, seats: int) -> str:
    async with grpc.aio.insecure_channel(admin_address) as channel:
        request = AddTenantRequest(
            name=tenant, quotas=Quotas(sessions=seats, controls_per_s=CONTROLS_PER_S[tenant])
        )
        made = await AdminServiceStub(channel).AddTenant(request, wait_for_ready=True, timeout=10.0)
    return made.key


def boards() -> list[Path]:
    """The dashboards as Grafana reads them."""
    return sorted((FOLDER / "dashboards").glob("*.json"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.bench.boards", description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="of the run; 30 or more")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/road"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if options.seconds < 30:
        parser.error(f"--seconds is {options.seconds:g}; the engine needs 30 to die and come back")
    if prometheus.PROGRAM is None:
        parser.error("prometheus is not there; apt-get install prometheus")
    run = asyncio.run(measure(options.checkpoint.absolute(), options.seconds))
    about = (
        "Drawn by services/bench/boards from Prometheus' answers, not by Grafana:"
        f" {options.seconds:g} s of play, rates over {RATE_INTERVAL}, an engine killed after"
        f" {options.seconds / 3:.0f} s. {os.cpu_count()} cores, under a load of {run.load:.0f} at the end."
    )
    for path in boards():
        out = options.out / f"{path.stem}.png"
        said = Said(about, NO_GPU if path.stem == "gpus" else NOTHING)
        draw(json.loads(path.read_text()), run.answers[path.stem], run.between_s, said, out)
        print(out)


if __name__ == "__main__":
    main()
